"""What changed, in words: names of files and keys, never values."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from mepd.config import changes
from mepd.config.endpoint import parse_files
from mepd.config.settings import (
    ControlSection,
    EndpointSection,
    EndpointSnapshot,
    MepdSection,
    ProgramSection,
    Settings,
)

TEMPLATE = "user_config_template.yaml.j2"
FILES = {
    "config.yaml": "display_name: a\npam:\n  enable: false\n",
    TEMPLATE: "engine: {}\n",
    "user_environment.yaml": "A: canary\n",
}
NONE = Settings(path=Path("/etc/mepd/mepd.conf"))


def snapshot(**files: str | None) -> EndpointSnapshot:
    texts: dict[str, Any] = {**FILES, **files}
    return parse_files("debug", Path("/e"), {k: v for k, v in texts.items() if v is not None})


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ({}, ""),
        ({"config.yaml": "display_name: b\npam: {}\npublic: true\n"},
         "config.yaml: display_name, pam, public"),
        ({"config.yaml": FILES["config.yaml"] + "# a comment\n"}, "config.yaml"),
        ({"config.yaml": "display_name: canary\n", TEMPLATE: "engine: {x: canary}\n"},
         f"config.yaml: display_name, pam; {TEMPLATE}"),
        ({"user_environment.yaml": "A: other canary\nB: 1\n"}, "user_environment.yaml: A, B"),
        ({"user_environment.yaml": None}, "user_environment.yaml (removed)"),
        ({"user_config_schema.json": "{}", "part.yaml.j2": "x"},
         "user_config_schema.json; part.yaml.j2"),
        ({"endpoint.json": '{"endpoint_id": "4ade0000-0000-4000-8000-000000000001"}'}, ""),
    ],
)  # fmt: skip
def test_of_an_endpoint(files: dict[str, str | None], said: str) -> None:
    assert changes.of_endpoint(snapshot(), snapshot(**files)) == said


def test_of_mepd_conf() -> None:
    one = EndpointSection("one", Path("/one"))
    two = EndpointSection("two", Path("/two"))
    p = ProgramSection("p", ("a",))
    old = dataclasses.replace(NONE, endpoints=(one, two), programs=(p,))
    assert changes.of_settings(old, old) == ""
    new = dataclasses.replace(
        NONE,
        mepd=MepdSection(max_ueps=1, min_uid=5),
        endpoints=(dataclasses.replace(one, directory=Path("/1")), EndpointSection("3", Path("/"))),
        programs=(dataclasses.replace(p, environment=(("SECRET", "canary"),)),),
    )
    assert changes.of_settings(old, new) == (
        "[mepd] max_ueps, min_uid; [endpoint:one] directory; [endpoint:two] removed;"
        " [endpoint:3] added; [program:p] environment"
    )


def test_what_waits_for_the_next_start_is_as_it_was() -> None:
    new = dataclasses.replace(
        NONE, mepd=MepdSection(max_ueps=1, pidfile=Path("/x")), control=ControlSection(chmod=0o600)
    )
    settings, waiting = changes.applicable(NONE, new)
    assert waiting == "[mepd] pidfile; [control] chmod"
    assert settings.mepd == MepdSection(max_ueps=1) and settings.control == ControlSection()
    assert changes.applicable(NONE, NONE) == (NONE, "")
