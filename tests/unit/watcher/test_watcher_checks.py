"""What the config worker refuses, and how it names it."""

from __future__ import annotations

import json
import os
import threading
import time
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mepd.errors import ConfigError
from mepd.watcher import bounds, checks, main, safeyaml, watches

GOOD_SCHEMA = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "type": "object",
    "properties": {"worker_init": {"type": "string"}, "$ref": {"type": "string"}},
    "$defs": {"a": {"pattern": "^a+$"}},
    "additionalProperties": {"$ref": "#/$defs/a"},
}


def error(check: Any, text: Any, name: str = "file") -> str:
    with pytest.raises(ConfigError) as caught:
        check(text if isinstance(text, str) else json.dumps(text), name)
    assert str(caught.value).startswith(name + ":")
    return str(caught.value)


# --- YAML -----------------------------------------------------------------------------
def test_yaml_is_read() -> None:
    assert safeyaml.load("a: 1\nb: [x, *y]\n".replace("*y", "y"), "f") == {"a": 1, "b": ["x", "y"]}
    assert safeyaml.load("# nothing\n", "f") is None


def test_aliases_are_fine_in_moderation() -> None:
    assert safeyaml.load("a: &x [1]\nb: *x\n", "f") == {"a": [1], "b": [1]}


BOMB = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{b}: &{b} [{', '.join(['*' + a] * 9)}]\n" for a, b in zip("abcdefgh", "bcdefghi")
)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("a: 1\nb: [1\n", "file:3:"),
        ("a: 1\na: !!python/object/apply:os.system [id]\n", "file:2: could not determine"),
        ("a: &a [*a]\n", "file:1: an alias that contains itself"),
        (BOMB, "more than 100000 values"),
        ("[" * 100_000, "nested too deeply"),
        ("a: \x00", "file"),
        ("a: 2001-99-99\n", "month must be"),
        ("x" * (1024 * 1024 + 1), "larger than"),
        ("a: 1\n---\nb: 1\n", "another document"),
        ("{a: 1}: 2\n? [x]\n: 3\n", "file:"),
    ],
)
def test_yaml_is_refused(text: str, told: str) -> None:
    assert told in error(safeyaml.load, text)


@settings(deadline=None)
@given(st.text(max_size=200))
def test_yaml_is_total(text: str) -> None:
    try:
        safeyaml.load(text, "f")
    except ConfigError:
        pass


# --- the files ------------------------------------------------------------------------
def test_config_is_a_mapping() -> None:
    assert checks.check_mapping("", "f") == {}
    assert "no mapping" in error(checks.check_mapping, "- a\n")
    assert "no text" in error(checks.check_mapping, "1: a\n")


def test_environment_is_flat() -> None:
    checks.check_environment("PATH: /site:/usr/bin\nN: 3\nEMPTY:\n", "f")
    assert "no plain text" in error(checks.check_environment, "A: [b]\n")
    assert "no plain text" in error(checks.check_environment, "A: {b: c}\n")
    assert "no name of a variable" in error(checks.check_environment, "'A=B': c\n")


def test_identity_mapping() -> None:
    good = [{"DATA_TYPE": "expression_identity_mapping#1.0.0", "mappings": []}]
    checks.check_identity_mapping(json.dumps(good), "f")
    assert "no list" in error(checks.check_identity_mapping, {})
    assert "line 1 column 2" in error(checks.check_identity_mapping, "[")
    assert "document 2: no DATA_TYPE" in error(checks.check_identity_mapping, [*good, {}])
    assert "unknown DATA_TYPE 'x#1'" in error(checks.check_identity_mapping, [{"DATA_TYPE": "x#1"}])


def test_schema() -> None:
    checks.check_schema(json.dumps(GOOD_SCHEMA), "f")
    assert "$.type" in error(checks.check_schema, {"type": "text"})
    assert "$.properties.a.pattern" in error(
        checks.check_schema, {"properties": {"a": {"pattern": "("}}}
    )
    assert "not an object" in error(checks.check_schema, [])
    assert "not JSON" in error(checks.check_schema, "{,}")


@pytest.mark.parametrize(
    "target",
    ["http://127.0.0.1:1/s.json", "https://x/", "file:///etc/shadow", "other.json", "//x", "urn:x"],
)
@pytest.mark.parametrize("key", ["$ref", "$dynamicRef"])
def test_E6_remote_references(target: str, key: str) -> None:
    told = error(checks.check_schema, {"properties": {"a": [{"b": {key: target}}]}})
    assert f"{key} to" in told
    assert "outside the file" in told


def test_ini_syntax() -> None:
    checks.check_ini({"mepd.conf": "[mepd]\nuser = mepd\n"})
    for text, told in [
        ("user = mepd\n", "mepd.conf:1: "),
        ("[mepd]\nuser\n", "mepd.conf:2: neither"),
        ("[mepd]\n\n[mepd]\n", "mepd.conf:3: "),
        ("[mepd]\nuser=a\nuser=b\n", "mepd.conf:3: "),
        ("[mepd]\nuser=a\0\n", "mepd.conf:2: a NUL"),
    ]:
        with pytest.raises(ConfigError) as caught:
            checks.check_ini({"mepd.conf": text})
        assert str(caught.value).startswith(told)


@settings(deadline=None, max_examples=50)
@given(
    st.dictionaries(
        st.sampled_from([checks.CONFIG, checks.ENVIRONMENT, checks.SCHEMA, checks.MAPPING, "x"]),
        st.text(max_size=80) | st.sampled_from(["{}", "[]", "null", "a: b", "[1]", '{"$ref": 1}']),
    ),
    st.sampled_from(["debug", ""]),
)
def test_validate_is_total(files: dict[str, str], endpoint: str) -> None:
    assert isinstance(main.validate(endpoint, files), str)


# --- bounds ---------------------------------------------------------------------------
def test_time_is_up_even_for_code_that_swallows_exceptions() -> None:
    def stubborn() -> None:
        while True:
            try:
                time.sleep(60)
            except Exception:
                pass

    with pytest.raises(bounds.TimeUp), bounds.time_limit(0.05):
        stubborn()


def test_no_alarm_is_left_behind() -> None:
    with bounds.time_limit(0.05):
        pass
    assert not threading.Event().wait(0.1)  # an alarm left behind would raise here


# --- watches --------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("config.yaml", True),
        ("user_config_template.yaml.j2", True),
        ("mepd.conf", True),
        ("part.j2", True),
        ("endpoint.log", False),
        ("endpoint.log.1", False),
        (".config.yaml.swp", False),
        ("config.yaml~", False),
        ("#config.yaml#", False),
        ("daemon.pid", False),
    ],
)
def test_what_matters(name: str, expected: bool) -> None:
    assert watches.matters(os.path.join("/etc/mepd", name)) == expected
