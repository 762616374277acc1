"""From template and options to the configuration: nothing a user says becomes structure."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import resource
import shlex
import signal
from pathlib import Path
from typing import Any

import jinja2.defaults
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mepd.config.settings import EndpointSnapshot
from mepd.launch import bounds, render
from mepd.launch.failure import StageError
from mepd.launch.quoting import quote
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


PLACES = {
    "alone": "{{ x }}",
    "with a default": "{{ x|default('z') }}",
    "a macro's": "{% macro m(v) %}{{ v }}{% endmacro %}{{ m(x) }}",
    "a block's": "{% set y %}{{ x }}{% endset %}{{ y }}",
    "in a condition": "{% if x != '\"z\"' %}{{ x }}{% endif %}",
    "before a comment": "{{ x }} # more",
    "in a comment": "1 # {{ x }}",
    "in double quotes": '"{{ x }}"',
    "in single quotes": "'{{ x }}'",
    "in a longer text in quotes": '"pre {{ x }} post"',
    "behind other text": "pre{{ x }}",
    "before other text": "{{ x }}post",
    "in a list": "[{{ x }}, b]",
    "in a list, in double quotes": '["{{ x }}"]',
    "in a list, in single quotes": "['{{ x }}']",
    "in a list, behind other text": "[pre{{ x }}, b]",
    "in a mapping": "{k: {{ x }}, b: c}",
    "in a mapping, in double quotes": '{k: "{{ x }}"}',
    "in a mapping, behind other text": "{k: pre{{ x }}, b: c}",
    "a macro's, in double quotes": "{% macro m(v) %}{{ v }}{% endmacro %}[\"{{ m(x) }}\"]",
    "as a key": "{ {{ x }}: v }",
    "as a key, in double quotes": '{"{{ x }}": v}',
    "as a key, behind other text": "{pre{{ x }}: v}",
    "in a block": "|\n  {{ x }}\n  more",
    "in a folded block": ">\n  more {{ x }}",
    "in a block sequence": "\n  - {{ x }}\n  - '{{ x }}'",
    "in the template's own list": "{{ [x, 1, none] }}",
    "in the template's own mapping": "{{ {'k': x, 'l': [x]} }}",
    "a list of the user's": "{{ l }}",
    "a list of the user's, in quotes": '"{{ l }}"',
    "a mapping of the user's": "{{ d }}",
    "a mapping of the user's, in single quotes": "'{{ d }}'",
    "for a shell": "{{ x|shell_escape }}",
    "for a shell, in double quotes": '["{{ x|shell_escape }}"]',
    "behind a lone backslash": '"\\{{ x }}"',
    "joined with other text": "{{ 'pre' ~ x }}",
    "joined in a list": "[{{ 'pre' ~ x ~ 'post' }}, b]",
    "joined in double quotes": '["{{ x ~ 1 }}"]',
    "added in a list": "[{{ 'pre' + x }}, b]",
    "added in a mapping": "{{ {'k': 'pre' + x} }}",
    "as a tag": "!{{ x }} a",
    "as an anchor": "&{{ x }} a",
}  # fmt: skip
ESCAPES = [
    ", ", ",", ", evil: y, ", "', evil: 'y", "','", "' # ", " # c", "# c", ": ", ":", "a: b",
    "a, b",
    "a # b", "]", "[", "}", "}, evil: {", "{", "it's", "''", " ", "\\",
    "\n  evil: y", "\u2028evil: y",
    "\", b: \"c", "a #", "-", "é🙂, x: y", "\U0001f642 # é", "\ufeff, ", "|", "&a", "*a", "!a", "%a",
]  # fmt: skip


def shape(value: Any) -> Any:
    """The structure of a value, whatever its texts say."""
    if isinstance(value, dict):
        return {f"{n}": shape(v) for n, v in enumerate(value.values())}
    return [shape(v) for v in value] if isinstance(value, list) else type(value)


def texts(value: Any) -> list[str]:
    if isinstance(value, dict):
        return [*value, *(t for v in value.values() for t in texts(v))]
    if isinstance(value, list):
        return [t for v in value for t in texts(v)]
    return [value] if isinstance(value, str) else []


def placed(place: str, x: str) -> dict[str, Any] | None:
    """What a template makes of a value in that place; None if it is refused."""
    template = f"engine: {{}}\na: {PLACES[place]}\nlast: é\n"
    try:
        return configuration({"x": x, "l": [x, 1], "d": {"k": x}}, template=template)
    except StageError as e:
        assert int(e.stage) == 77
        return None


@pytest.mark.parametrize("place", PLACES)
def test_E1_wherever_a_template_puts_a_value(place: str) -> None:
    """The structure is that of any value, and the text is there; or it is refused."""
    usual = placed(place, "abc")
    for value in ESCAPES:
        seen = placed(place, value)
        if seen is None:
            continue
        assert usual is not None and shape(seen) == shape(usual), (value, seen)
        ways = {value, quote(value), json.dumps(value), shlex.quote(value)}
        there = any(way in text for way in ways for text in texts(seen["a"]))
        assert there or "comment" in place, (value, seen)


def test_E1_where_a_value_belongs_all_are_in_place() -> None:
    for place in ("alone", "in a list", "in a mapping", "a macro's", "as a key"):
        for value in ESCAPES:
            seen = placed(place, value)
            assert seen is not None and value in texts(seen["a"]), (place, value)


def test_E1_a_value_out_of_place_is_named_with_the_line() -> None:
    error = failure({"x": "a", "y": ", evil: z, "}, template='engine: {}\na: ["{{ y }}"]')
    assert "y: the template (line 2 of what it yields)" in error.detail
    folder = {"d": {"k": ["a # c"]}}
    error = failure(folder, template="engine: {}\na: '{{ d }}'\nb: pre {{ d.k[0] }}")
    assert "d.k[0]: the template (line 3" in error.detail


@pytest.mark.figures
@settings(max_examples=figure(300, 10_000), deadline=None)
@given(st.sampled_from(sorted(PLACES)), st.text(st.sampled_from("a ,:#'\"{}[]\\\n\t-é&*!|>%@`?")))
def test_E1_any_text_in_any_place(place: str, value: str) -> None:
    usual, seen = placed(place, "abc"), placed(place, value)
    assert seen is None or (usual is not None and shape(seen) == shape(usual))


@pytest.mark.parametrize("name", ["parent_config", "user_runtime", "mapped_identity", "_GC"])
def test_E3_the_manuals_reserved_words(name: str) -> None:
    error = failure({name: "not allowed"})
    assert error.public_text("harper") == (
        "Unable to start user endpoint process for harper [exit code: 77; (ValueError) "
        f"'{name}' is a reserved word and cannot be passed in via user config]"
    )


@pytest.mark.parametrize(
    "name",
    sorted({*jinja2.defaults.DEFAULT_NAMESPACE, "self", "loop", "super", "caller", "varargs",
            "kwargs", "true", "false", "none", "True", "False", "None"}),
)  # fmt: skip
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


WITHOUT_END = {
    "ranges": "{% for i in range(99999) %}{% for j in range(99999) %}x{% endfor %}{% endfor %}",
    "2 GB": "{{ 'x' * 2147483648 }}",
    "2 GB by doubling": "{% set a = 'x' * 50000000 %}{% set b = a ~ a %}{{ b ~ b ~ b ~ b }}",
    "2 GB by replace": "{{ ('x' * 100000)|replace('x', 'y' * 100000) }}",
    "2 GB by center": "{{ 'x'|center(2147483648) }}",
    "2 GB by format": "{{ '%2147483648d'|format(1) }}",
    "lines": "engine: {}\n{% for i in range(99999) %}# {{ 'x' * 1000 }}\n{% endfor %}",
    "a macro of itself": "{% macro m(n) %}{{ m(n) }}{% endmacro %}{{ m(1) }}",
    "two macros of itself":
        "{% macro m(n) %}{% if n %}{{ m(n-1) }}{{ m(n-1) }}{% endif %}{% endmacro %}{{ m(60) }}",
    "a loop of itself": "{% for i in [1] recursive %}{{ loop([1]) }}{% endfor %}",
    "an include of itself": "{% include 'a' %}",
    "includes of includes": "{% include 'w0' %}",
    "a parent of itself": "{% extends 'p' %}",
    "an import of itself": "{% import 'i' as i %}",
    "a constant power": "{{ 10 ** 100000000 > 1 }}",
    "a power": "{% set n = 10 %}{{ n ** 100000000 > 1 }}",
    "a constant filter": "{{ ('a' * 2000000)|wordwrap(1)|length }}",
    "brackets": "engine: {{ '[' * 400000 }}",
    "a number of base 60": "engine: {a: {{ '1:' * 400000 }}1}",
}  # fmt: skip
INCLUDES = {
    "a": "{% include 'a' %}", "p": "{% extends 'p' %}", "i": "{% import 'i' as i %}",
    **{f"w{n}": f"{{% include 'w{n + 1}' %}}" * 10 for n in range(20)}, "w20": "x",
}  # fmt: skip
RENDER_TIMEOUT = 0.5


def in_a_child(template: str, timeout: float = RENDER_TIMEOUT, **more: Any) -> tuple[int, Any]:
    """Render in a process of its own: how it ended (wait(2)), and what it used."""
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            render.configuration(snapshot(template, **more), {}, {}, {}, timeout)
        except StageError as e:
            status = int(e.stage)
        finally:
            os._exit(status)
    return os.wait4(pid, 0)[1:]


@pytest.mark.parametrize("name", WITHOUT_END)
def test_E4_a_template_is_bounded(name: str) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    status, used = in_a_child(WITHOUT_END[name], includes=INCLUDES)
    assert os.waitstatus_to_exitcode(status) == 77
    assert used.ru_utime + used.ru_stime < RENDER_TIMEOUT + 2
    assert used.ru_maxrss - before < 256 * 1024


def test_E4_the_time_is_bounded() -> None:
    slow = "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}"
    with pytest.raises(StageError, match="longer than"):
        render.configuration(snapshot(slow), {}, {}, {}, 0.2)


def test_E4_what_takes_no_signals_is_killed() -> None:
    """A search in which Python looks for no signals until it is over, in an hour."""
    template = "{{ ('a' * 20000000).rfind('aaab' ~ 'a' * 10000000) }}"
    status, used = in_a_child(template)
    assert os.WTERMSIG(status) == signal.SIGVTALRM
    assert used.ru_utime < RENDER_TIMEOUT + 3


SCHEMAS = {
    "itself": {"$ref": "#"},
    "all of itself": {"allOf": [{"$ref": "#"}, {"$ref": "#"}]},
    "a ring": {"$ref": "#/$defs/a", "$defs": {
        "a": {"not": {"$ref": "#/$defs/b"}}, "b": {"anyOf": [{"$ref": "#/$defs/a"}]}}},
    "its own anchor": {"$dynamicAnchor": "m", "$dynamicRef": "#m"},
    "twice the next": {"$ref": "#/$defs/d0", "$defs": {
        **{f"d{n}": {"allOf": [{"$ref": f"#/$defs/d{n + 1}"}] * 2} for n in range(40)},
        "d40": {"type": "object"}}},
    "a pattern": {"properties": {"x": {"pattern": "(a+)+$"}}},
}  # fmt: skip


@pytest.mark.parametrize("name", SCHEMAS)
def test_E4_a_schema_is_bounded(name: str) -> None:
    with pytest.raises(StageError):
        render.configuration(
            snapshot("engine: {}", schema=SCHEMAS[name]), {"x": "a" * 60 + "!"}, {}, {}, 0.5
        )


def test_E4_the_bounds_end_with_what_they_bound() -> None:
    for timeout in (0.05, 5.0):
        try:
            with bounds.bounded(timeout, "this"):
                sum(range(10_000_000))
        except TimeoutError as e:
            assert timeout < 1 and str(e) == "this took longer than 0.05 s"
        assert signal.getitimer(signal.ITIMER_PROF) == (0, 0)
        assert signal.getitimer(signal.ITIMER_VIRTUAL) == (0, 0)
        assert resource.getrlimit(resource.RLIMIT_AS)[0] == resource.RLIM_INFINITY


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
