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
from mepd.watcher import bounds, checks, main, watches
from mepd.wire.worker import Validate

GOOD_SCHEMA = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "type": "object",
    "properties": {"worker_init": {"type": "string"}, "$ref": {"type": "string"}},
    "$defs": {"a": {"pattern": "^a+$"}},
    "additionalProperties": {"$ref": "#/$defs/a"},
}


def schema_error(schema: dict[str, Any]) -> str:
    with pytest.raises(ConfigError) as caught:
        checks.check_schema(schema, "file")
    assert str(caught.value).startswith("file: ")
    return str(caught.value)


BOMB = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{b}: &{b} [{', '.join(['*' + a] * 9)}]\n" for a, b in zip("abcdefgh", "bcdefghi")
)


# --- the files ------------------------------------------------------------------------
MAPPING = [
    {
        "DATA_TYPE": "expression_identity_mapping#1.0.0",
        "mappings": [{"source": "{username}", "match": "(.*)@example.com", "output": "{0}"}],
    }
]
GOOD = {
    "config.yaml": "display_name: a\nidentity_mapping_config_path: mapping.json\n",
    "user_config_template.yaml.j2": "engine: {type: ThreadPoolEngine}\n",
    "user_config_schema.json": json.dumps(GOOD_SCHEMA),
    "user_environment.yaml": "PATH: /site:/usr/bin\nN: 3\n",
    "mapping.json": json.dumps(MAPPING),
}


def validate(files: dict[str, str]) -> str:
    return main.validate(Validate("t", "debug", files))


def test_a_good_folder() -> None:
    assert validate(GOOD) == ""


@pytest.mark.parametrize(
    ("name", "text", "told"),
    [
        ("config.yaml", "a: [\n", "config.yaml:2: "),
        ("config.yaml", "- a\n", "config.yaml: is no mapping"),
        ("config.yaml", "displayname: a\n", "config.yaml:1: "),
        ("config.yaml", BOMB, "config.yaml:"),
        ("user_environment.yaml", "A: [b]\n", "user_environment.yaml:1: A: "),
        ("user_environment.yaml", "a: &a [*a]\n", "user_environment.yaml"),
        ("user_config_schema.json", "{,}", "user_config_schema.json:1: "),
        ("user_config_schema.json", '{"type": "text"}', "no JSON schema: $.type"),
        ("user_config_template.yaml.j2", "a\n\0", "user_config_template.yaml.j2:2: a NUL"),
        ("mapping.json", "{}", "mapping.json: "),
        ("mapping.json", '[{"DATA_TYPE": "x#1"}]', "DATA_TYPE"),
        ("mapping.json", "[" * 100_000, "nested too deeply"),
    ],
)
def test_a_bad_file_is_named(name: str, text: str, told: str) -> None:
    assert told in validate({**GOOD, name: text})


def test_schema() -> None:
    checks.check_schema(GOOD_SCHEMA, "file")
    assert "$.type" in schema_error({"type": "text"})
    assert "$.properties.a.pattern" in schema_error({"properties": {"a": {"pattern": "("}}})


@pytest.mark.parametrize(
    ("schema", "told"),
    [
        ({"properties": {"a": {"$ref": "#/$defs/b"}}}, "$ref to '#/$defs/b' leads nowhere"),
        ({"properties": {"a": {"$ref": "#b"}}}, "$ref to '#b' leads nowhere"),
        ({"properties": {"a": {"$ref": "#/allOf/b"}}, "allOf": [{}]}, "leads nowhere"),
        ({"properties": {"a": {"$ref": "#/$defs/b/c"}}, "$defs": {"b": True}}, "leads nowhere"),
        ({"$defs": {"b": {"items": {"$ref": "#/c"}}}}, "$ref to '#/c' leads nowhere"),
        ({"$ref": "#"}, "$ref to '#' has no end"),
        ({"$defs": {"b": {"$ref": "#/$defs/c"}, "c": {"$ref": "#/$defs/b"}}}, "has no end"),
    ],
)
def test_a_reference_that_fails_each_start_is_an_error_of_the_schema(
    schema: dict[str, Any], told: str
) -> None:
    assert told in schema_error(schema)


@pytest.mark.parametrize(
    "schema",
    [
        {"$id": "https://x.org/s", "properties": {"a": {"$ref": "#/properties/b"}, "b": True}},
        {"$defs": {"b": {"$anchor": "x"}}, "items": {"$ref": "#x"}},
        {"$defs": {"b": {"$id": "b.json", "$defs": {"c": {}}, "items": {"$ref": "#/$defs/c"}}}},
        {"properties": {"next": {"$ref": "#"}}},
        {"$defs": {"b": {"items": {"$ref": "#/$defs/b"}}}, "$ref": "#/$defs/b"},
        {"definitions": {"b": {}}, "anyOf": [{"$ref": "#/definitions/b"}]},
        {"enum": [{"$ref": "#/nowhere"}], "properties": {"$ref": {"type": "string"}}},
    ],
)  # fmt: skip
def test_references_that_lead_to_something(schema: dict[str, Any]) -> None:
    checks.check_schema(schema, "file")


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("a: 1\nb: {{ A", ":2: no Jinja template: "),
        ("a: 1\n{% if x %}\n", "no Jinja template: Unexpected end"),
        ("a: {{ x|shell_ecsape }}", ":1: no Jinja template: No filter named 'shell_ecsape'"),
        ("{% endfor %}", ":1: no Jinja template: "),
        ("{% include 'part.j2' %}", ""),
        ("a: {{ x|shell_escape|default() }} {% import 'm.j2' as m %}{{ m.x(1) }}", ""),
    ],
)
def test_a_template_is_compiled(text: str, told: str) -> None:
    error = validate({**GOOD, "user_config_template.yaml.j2": text, "part.j2": "b: 1"})
    assert error.startswith("user_config_template.yaml.j2:") if told else error == ""
    assert told in error


def test_what_a_template_includes_is_compiled_and_nothing_else() -> None:
    files = {**GOOD, "user_config_template.yaml.j2": "{% include 'a.j2' %}"}
    broken = {"a.j2": "{% include 'b.j2' %}", "b.j2": "x: {{", "c.j2": "{{ unused"}
    assert validate({**files, **broken}).startswith("b.j2:1: no Jinja template")
    assert validate({**files, **broken, "b.j2": "x: 1"}) == ""


@pytest.mark.parametrize(
    ("match", "told"),
    [("(.*", "missing )"), ("a*?", "Invalid ?"), ("\\d", "Invalid \\"), ("*a", "leading wildcard"),
     ("a\\", "missing )")],
)
def test_rules_are_in_the_librarys_language(match: str, told: str) -> None:
    rules = [MAPPING[0]["mappings"][0], {"source": "{email}", "match": match, "output": "{0}"}]
    error = validate({**GOOD, "mapping.json": json.dumps([{**MAPPING[0], "mappings": rules}])})
    assert error.startswith("mapping.json: document 1, rule 2 (") and told in error


@settings(deadline=None, max_examples=50)
@given(
    st.dictionaries(
        st.sampled_from([*GOOD, "x"]),
        st.text(max_size=80) | st.sampled_from(["{}", "[]", "null", "a: b", "[1]", '{"$ref": 1}']),
    )
)
def test_validate_is_total(files: dict[str, str]) -> None:
    assert isinstance(validate({**GOOD, **files}), str)


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
