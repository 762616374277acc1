"""``limits`` of config.yaml."""

from __future__ import annotations

from pathlib import Path

import pytest

from mepd.config.configyaml import ConfigYaml
from mepd.errors import ConfigError
from mepd.posix.rlimits import UNLIMITED, Limit


def _limits(text: str) -> tuple[Limit, ...]:
    return ConfigYaml(f"multi_user: true\n{text}\n", Path("/etc/x/config.yaml")).limits()


@pytest.mark.parametrize(
    ("value", "wanted"),
    [
        ("200", (200, 200)),
        ('"100:200"', (100, 200)),
        ("4GB", (4 * 2**30, 4 * 2**30)),
        ("unlimited", (UNLIMITED, UNLIMITED)),
        ('"1024:unlimited"', (1024, UNLIMITED)),
        ("0", (0, 0)),
    ],
)
def test_values(value: str, wanted: tuple[int, int]) -> None:
    assert _limits(f"limits: {{as: {value}}}") == (Limit("as", *wanted),)


def test_none_are_none() -> None:
    assert _limits("") == _limits("limits: {}") == ()


@pytest.mark.parametrize(
    ("block", "told"),
    [
        ("{nofiles: 3}", "unknown limit 'nofiles'; the nearest known is 'nofile'"),
        ("{3: 3}", "unknown limit '3'"),
        ("{nproc: -1}", "nproc must be a number"),
        ("{nproc: true}", "nproc must be a number"),
        ("{nproc: 1.5}", "nproc must be a number"),
        ("{nproc: many}", "nproc must be a number"),
        ('{nproc: "1:2:3"}', "nproc must be a value or SOFT:HARD"),
        ('{nproc: "3:2"}', "nproc: the soft limit is above the hard one"),
        ('{nproc: "unlimited:2"}', "nproc: the soft limit is above the hard one"),
        ("[nproc]", "must be a mapping of limits"),
    ],
)
def test_what_is_wrong_is_named_with_file_and_line(block: str, told: str) -> None:
    with pytest.raises(ConfigError) as caught:
        _limits(f"limits: {block}")
    assert told in str(caught.value)
    assert str(caught.value).startswith("/etc/x/config.yaml:2: limits: ")
