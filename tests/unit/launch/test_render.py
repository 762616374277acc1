"""From template and options to the configuration: nothing a user says becomes structure."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mepd.config.settings import EndpointSnapshot
from mepd.launch import render
from mepd.launch.failure import StageError
from tests.figures import figure

TEMPLATE = """
engine:
  type: ThreadPoolEngine
  account: {{ ACCOUNT_ID }}
  nodes: {{ NODES|default(1) }}
safe: yes
"""


def snapshot(template: str = TEMPLATE, **changes: Any) -> EndpointSnapshot:
    base = EndpointSnapshot(
        name="test", directory=Path("/x"), endpoint_id=None, config={"display_name": "D"},
        template_name="t", template=template, schema=None, mappings=None, mapping_path=None,
        environment={}, uep_command=("globus-compute-endpoint", "start", "{name}"),
    )  # fmt: skip
    return dataclasses.replace(base, **changes)


def configuration(options: dict[str, Any], **changes: Any) -> dict[str, Any]:
    runtime = {"python_version": "3.12.1 (main)"}
    return render.configuration(snapshot(**changes), options, runtime, {}, 5.0)[1]


def failure(options: dict[str, Any], **changes: Any) -> StageError:
    with pytest.raises(StageError) as caught:
        configuration(options, **changes)
    assert int(caught.value.stage) == 77
    return caught.value


HOSTILE = [
    'x"\nsafe: no', "a: b", "{{ 7*7 }}", "{% raw %}", "- a", "&a *a", "!!python/object:x", "# c",
    "'", '"', "\\", "\x00\x01", "\x85", "\u2028", "\u2029", "\ufeff", "\U0001f600", "null", "~",
    "yes", "1", "0x1", "1e3", "", " ", "\t", "|\n a", ">", "%", "@", "`", "---", "...", "\x7f", "é",
]  # fmt: skip


OWN = ("/opt/mepd/bin/mepd-uep", "start", "{name}", "--die-with-parent")


@pytest.mark.parametrize(
    ("template", "words"),
    [
        ("engine: {type: TreadPoolEngine}", ["TreadPoolEngine", "'ThreadPoolEngine'"]),
        ("engine: {type: ThreadPoolEngine, max_worker: 2}", ["max_worker", "'max_workers'"]),
        ("engine: {type: ThreadPoolEngine, max_workers: {{ N }}}", ["engine.max_workers", "'x'"]),
        ("engine: {type: ThreadPoolEngine}\nheartbeat: 3", ["'heartbeat'"]),
        ("display_name: D", ["engine: missing"]),
        ("engine: [", ["rendered configuration", "did not find"]),
    ],
)
def test_a_bad_configuration_is_an_error_before_the_exec(template: str, words: list[str]) -> None:
    error = failure({"N": "x"}, template=template, uep_command=OWN)
    for word in words:
        assert word in error.public_text("harper") and word in error.reason


def test_another_programs_configuration_needs_an_engine_only() -> None:
    command = ("globus-compute-endpoint", "start", "{name}")
    engine = {"type": "Theirs", "key": 1}
    seen = configuration({}, template="engine: {type: Theirs, key: 1}", uep_command=command)
    assert seen == {"engine": engine}
    assert "no `engine` block" in failure({}, template="a: 1", uep_command=command).reason


@pytest.mark.parametrize("value", HOSTILE)
def test_E1_a_string_stays_that_string(value: str) -> None:
    assert configuration({"ACCOUNT_ID": value}) == {
        "engine": {"type": "ThreadPoolEngine", "account": value, "nodes": 1},
        "safe": True,
    }


@pytest.mark.figures
@settings(max_examples=figure(300, 10_000), deadline=None)
@given(
    st.one_of(
        st.text(), st.integers(-(2**63), 2**63 - 1), st.booleans(), st.none(),
        st.floats(allow_nan=False, allow_infinity=False),
        st.recursive(
            st.text(max_size=8),
            lambda inner: st.lists(inner, max_size=3)
            | st.dictionaries(st.text(max_size=6), inner, max_size=3),
            max_leaves=6,
        ),
    )
)  # fmt: skip
def test_E1_any_value_is_in_place_or_refused(value: Any) -> None:
    try:
        seen = configuration({"ACCOUNT_ID": value})
    except StageError as e:
        assert int(e.stage) == 77
        return
    assert seen["safe"] is True and seen.keys() == {"engine", "safe"}
    account = seen["engine"]["account"]
    same = account == value or (
        isinstance(value, float) and math.isclose(float(account), value, rel_tol=1e-12)
    )
    assert same, (value, account)


@pytest.mark.parametrize("name", ["parent_config", "user_runtime", "mapped_identity", "_GC"])
def test_E3_the_manuals_reserved_words(name: str) -> None:
    error = failure({name: "not allowed"})
    assert error.public_text("harper") == (
        "Unable to start user endpoint process for harper [exit code: 77; (ValueError) "
        f"'{name}' is a reserved word and cannot be passed in via user config]"
    )


@pytest.mark.parametrize("name", ["range", "self", "loop", "dict", "namespace", "lipsum"])
def test_E3_jinjas_own_names(name: str) -> None:
    assert "reserved word" in failure({name: "x"}).reason


@pytest.mark.parametrize("name", ["a b", "a-b", "", "é", "a\nb", "1a", "__class__ x"])
def test_option_names_are_plain(name: str) -> None:
    assert "not allowed as the name" in failure({name: "x"}).reason


def test_a_missing_variable_is_named() -> None:
    assert "ACCOUNT_ID" in failure({}).detail


@pytest.mark.parametrize(
    "expression",
    [
        "{{ ''.__class__.__mro__ }}",
        "{{ parent_config.__class__.__init__.__globals__ }}",
        "{{ ''|attr('__class__') }}",
        "{{ '%s'.format.__globals__ }}",
        "{{ '{0.__class__}'.format('') }}",
        "{{ cycler.__init__.__globals__ }}",
    ],
)
def test_E5_the_sandbox_holds(expression: str) -> None:
    error = failure({"ACCOUNT_ID": "x"}, template=TEMPLATE + f"leak: {expression}\n")
    assert "class" not in error.detail.replace("__class__", "") or "SecurityError" in error.detail


@pytest.mark.parametrize(
    "template",
    [
        "{% for i in range(100000) %}{% for j in range(100000) %}x{% endfor %}{% endfor %}",
        "{{ 'x' * 2147483648 }}",
        "engine: {}\n{% for i in range(99999) %}# {{ 'x' * 1000 }}\n{% endfor %}",
    ],
)
def test_E4_a_template_is_bounded(template: str) -> None:
    failure({"ACCOUNT_ID": "x"}, template=template)


def test_E4_the_time_is_bounded() -> None:
    slow = "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}"
    with pytest.raises(StageError, match="longer than"):
        render.configuration(snapshot(slow), {}, {}, {}, 0.2)


def test_schema_names_the_property() -> None:
    schema = {"type": "object", "properties": {"ACCOUNT_ID": {"type": "string"}}}
    error = failure({"ACCOUNT_ID": 7}, schema=schema)
    assert error.detail == "(ValueError) ACCOUNT_ID: 7 is not of type 'string'"


def test_E6_a_remote_reference_is_not_fetched() -> None:
    schema = {"$ref": "http://127.0.0.1:1/schema.json"}
    assert "Unresolvable" in failure({"ACCOUNT_ID": "x"}, schema=schema).reason


def test_includes_come_from_the_snapshot() -> None:
    seen = configuration(
        {"ACCOUNT_ID": "x"},
        template=TEMPLATE + "{% include 'more.yaml.j2' %}",
        includes={"more.yaml.j2": "more: {{ ACCOUNT_ID }}\n"},
    )
    assert seen["more"] == "x"


def test_user_runtime_and_parent_config() -> None:
    seen = configuration(
        {"ACCOUNT_ID": "x"},
        template=TEMPLATE
        + "{% if '3.12' in user_runtime.python_version %}py: 312{% endif %}\n"
        + "shown: {{ parent_config.display_name }}\n"
        + "same: {{ _GC.parent_config.display_name }}\n",
    )
    assert (seen["py"], seen["shown"], seen["same"]) == (312, "D", "D")


@pytest.mark.parametrize("text", ["[]", "just text", "a: b", "engine: 7", "engine: {", "\tx: 1"])
def test_a_bad_result_is_an_error_before_exec(text: str) -> None:
    failure({}, template=text)
