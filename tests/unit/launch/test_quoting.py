"""What templates print: no structure of YAML, and no command of a shell."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from mepd.launch.quoting import quote, sanitize, shell_escape, shown

HOSTILE = [
    "x; touch CANARY", "$(touch CANARY)", "`touch CANARY`", "' ; touch CANARY ; '",
    '" ; touch CANARY ; "', "a\ntouch CANARY\n", "a' \"$(touch CANARY)\" 'b", "\\$(touch CANARY)",
    "|touch CANARY", "&touch CANARY&", "${IFS}$(touch CANARY)", "\r\ntouch CANARY\r\n",
    "!!", "~root",
    "a b", "", "-rf", "*", "é 🙂", "x #y", "{a,b}", "$'\\x3btouch CANARY'", "EOF\ntouch CANARY\nEOF",
]  # fmt: skip

CONTEXTS = {
    "bare": "true {}\n",
    "double quotes": 'x="{}"\n',
    "single quotes": "x='{}'\n",
    "command substitution": "x=$(echo {})\n",
    "eval": 'eval "echo {}"\n',
    "here document": "cat <<EOF\n{}\nEOF\n",
    "bash -c": "bash -c 'echo {}'\n",
}


@pytest.mark.parametrize("value", HOSTILE)
def test_shell_escape_makes_one_word_of_a_whole_value(value: str) -> None:
    text = yaml.safe_load(f"command: {shell_escape(quote(value))}")["command"]
    done = subprocess.run(["sh", "-c", f"printf %s {text}"], capture_output=True, check=True)
    assert done.stdout == value.encode()


@settings(max_examples=300, deadline=None)
@given(st.text())
def test_shell_escape_is_a_string_of_yaml_whatever_it_holds(value: str) -> None:
    import shlex

    assert yaml.safe_load(f"[{shell_escape(quote(value))}, b]") == [shlex.quote(value), "b"]


@pytest.mark.parametrize("context", CONTEXTS)
def test_shell_escape_amid_other_text_is_never_a_command(context: str, tmp_path: Path) -> None:
    script = "".join(CONTEXTS[context].format(shell_escape(quote(v))) for v in HOSTILE)
    for shell in ("sh", "bash"):
        subprocess.run([shell, "-c", script], cwd=tmp_path, capture_output=True)
        assert list(tmp_path.iterdir()) == []


def test_without_the_filter_the_same_texts_are_commands(tmp_path: Path) -> None:
    """So the test above can fail."""
    script = "".join(CONTEXTS["double quotes"].format(quote(v)) for v in HOSTILE)
    subprocess.run(["sh", "-c", script], cwd=tmp_path, capture_output=True)
    assert [p.name for p in tmp_path.iterdir()] == ["CANARY"]


@pytest.mark.parametrize("value", [1, 1.5, True, [1], {"a": 1}, "5", "[1, 2]", "null"])
def test_shell_escape_leaves_what_is_no_text(value: Any) -> None:
    assert shell_escape(value) == value


@pytest.mark.parametrize("value", [float("inf"), float("-inf"), float("nan")])
def test_what_is_no_finite_number_is_refused_with_its_path(value: float) -> None:
    with pytest.raises(ValueError, match=r"user_opts\.a\[1\]: not a finite number"):
        sanitize({"a": [1.5, value]}, "user_opts")


def test_a_lone_surrogate_is_refused() -> None:
    with pytest.raises(ValueError, match="surrogate"):
        shell_escape("\udc80")
    with pytest.raises(ValueError, match=r"opts\.a\[0\]: .*surrogate"):
        sanitize({"a": ["\ud800"]}, "opts")


GECOS = [
    "Harper Lee", "Harper Lee,,,", "x\nevil: 1", "x, evil: 1", "- x", "# x", "a: b",
    "{{ 7*7 }}", "'",
    '"', "&a", "*a", "!!x", "---", "...", "\ud800", "\u2028", " x ", "", "[", "}",
    "a #b", "| x", "%",
]  # fmt: skip


@pytest.mark.parametrize("text", GECOS)
def test_what_others_wrote_into_an_account_is_one_value(text: str) -> None:
    wanted = text.replace("\ud800", "\ufffd").replace("\n", " ").replace("\u2028", " ")
    printed = str(shown(text))
    assert yaml.safe_load(f"a: {printed}\nb: 2") == {"a": wanted, "b": 2}
    assert yaml.safe_load(f"{{a: {printed}, b: 2}}") == {"a": wanted, "b": 2}


@pytest.mark.parametrize("text", GECOS)
def test_no_filter_makes_a_line_of_it(text: str) -> None:
    import jinja2

    template = "a: {{ x|upper }}\nb: {{ x.split(',')[0] }}\nc: {{ 'x ' + x }}\n"
    printed = jinja2.Template(template).render(x=shown(text))
    assert [line[0] for line in printed.splitlines()] == ["a", "b", "c"]


@settings(max_examples=300, deadline=None)
@given(
    st.recursive(
        st.text(max_size=8), lambda x: st.lists(x) | st.dictionaries(st.text(max_size=40), x)
    )
)
def test_shown_values_add_no_key(value: Any) -> None:
    assert yaml.safe_load(f"a: {shown(value)}\nb: 2").keys() == {"a", "b"}


def test_names_and_paths_print_as_they_are() -> None:
    account = shown({"uname": "harper", "dir": "/home/harper", "shell": "/bin/bash", "uid": 1001})
    printed = f"{account['dir']}/x {account['uname']} {account['uid']}"
    assert printed == "/home/harper/x harper 1001"
    assert account["uname"] == "harper" and "arp" in account["uname"]
