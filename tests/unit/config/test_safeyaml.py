"""Bounded YAML: what a file can cost, and where an error stands."""

from __future__ import annotations

import pytest

from mepd.config import safeyaml
from mepd.errors import ConfigError


def test_plain_values() -> None:
    values = safeyaml.load_mapping("a: 1\nb: [x, {c: null}]\n", "f")
    assert values == {"a": 1, "b": ["x", {"c": None}]}
    assert safeyaml.load_mapping("# nothing\n", "f") == {}


def test_aliases_within_bounds() -> None:
    text = "base: &b {x: 1}\none: *b\ntwo: {<<: *b, y: 2}\n"
    assert safeyaml.load_mapping(text, "f")["two"] == {"x": 1, "y": 2}


def laughs(levels: int) -> str:
    lines = ["a0: &a0 [lol, lol, lol, lol, lol, lol, lol, lol, lol, lol]"]
    for n in range(1, levels):
        lines.append(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]")
    return "\n".join(lines)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\nb: [\n", "f:3: "),
        ("a: 1\n b: 2\n", "f:2: mapping values are not allowed"),
        ("a: !!python/object/apply:os.system [x]\n", "f:1: could not determine a constructor"),
        ("a: 2026-02-31\n", "f: a value that is none"),
        ("- a\n", "f: is no mapping"),
        ("1: a\n", "f: is no mapping"),
        ("a: &x [*x]\n", "f:1: an alias that contains itself"),
        ("a: " + "[" * 200_000, " nest"),  # newer libyaml has a limit of its own
        ("a: " + "[" * 80, "f:1: nested too deeply"),
        ("".join(" " * n + "a:\n" for n in range(100)), "f:65: nested too deeply"),
        ("a: [" + "1," * 30_000 + "]", "f:1: more than 20000 values"),
        (laughs(9), "more than 20000 values"),
        ("a: 1\n---\nb: 2\n", "f:2: "),
    ],
)
def test_refused(text: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        safeyaml.load_mapping(text, "f")
    assert message in str(caught.value)
