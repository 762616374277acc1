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
        ("a: 1\nNO: 1\n", "f:2: the key 'NO' is no text for YAML: write it in quotes"),
        ("{a: 1,\n\n 1: 2}", "f:3: the key '1' is no text"),
        ("~: x\n", "f:1: the key '~' is no text"),
        ("{a: {1: 2, a: 3}, <<: {1: 2}}\n", "f: is no mapping"),
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


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\nb: 2\n'a': 3\n", "f:3: 'a' stands in line 1, too"),
        ("pam:\n  enable: true\n  x: {}\n  enable: false\n", "f:4: 'enable' stands in line 2, too"),
        ("a: [1, {b: 1, b: 1}]", "f:1: 'b' stands in line 1, too"),
    ],
)
def test_a_key_that_stands_twice(text: str, message: str) -> None:
    assert safeyaml.load_mapping(text, "f"), "that is how YAML has it"
    with pytest.raises(ConfigError) as caught:
        safeyaml.load_unique(text, "f")
    assert str(caught.value) == message


@pytest.mark.parametrize(
    "text",
    [
        "a: {a: {a: 1}}\nb: {a: 2}\n",
        "x: &x {a: 1}\ny: &y {b: 1}\nz: {a: 2, <<: *x, <<: *y}\n",
        "a: {1: x, '1': y}\n",
        "a: &a {b: [1]}\nc: *a\nd: [*a, *a]\n",
        "# nothing\n",
    ],
)
def test_keys_that_stand_once(text: str) -> None:
    assert safeyaml.load_unique(text, "f") == safeyaml.load_mapping(text, "f")
