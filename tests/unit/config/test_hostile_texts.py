"""Files that want to hold up, crash or confuse their reader: a value or an error, at once.

The master itself reads mepd.conf and config.yaml, so that what takes minutes there stops
every endpoint. Without the bounds each of the bombs below takes longer than a test may.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mepd.config import (
    endpoint,
    includes,
    ini,
    mappingfile,
    mappinglint,
    safeyaml,
    templatelint,
    textfile,
)
from mepd.errors import ConfigError
from tests.figures import figure

CPU_MAX = 5.0


@pytest.fixture(autouse=True)
def at_once() -> Iterator[None]:
    before = time.process_time()
    yield
    assert time.process_time() - before < CPU_MAX or figure(0, 1)


YAML_BOMBS = {
    "base 60": "a: " + "1:" * 400_000 + "1",
    "base 60, by its tag": "a: !!int '" + "1:" * 400_000 + "1'",
    "base 60, a float": "a: " + "59:" * 200 + "1.5",
    "hexadecimal": "a: 0x" + "f" * 1_000_000,
    "binary": "a: 0b" + "1" * 1_000_000,
    "octal": "a: 0" + "7" * 1_000_000,
    "decimal": "a: " + "9" * 1_000_000,
    "a key": "0x" + "f" * 1_000_000 + ": a",
    "directives": "".join(f"%TAG !e{n}! tag:x\n" for n in range(40_000)) + "--- a",
    "no number": "a: !!int ''",
    "no truth": "a: !!bool perhaps",
    "no time": "a: !!timestamp now",
    "no day": "a: 2026-02-31",
    "no base64": "a: !!binary x",
    "no null": "a: !!null {b: c}",
    "a merge of no mapping": "a: {<<: [1]}",
    "a key of no hash": "{? [a] : b}",
    "flow": "[" * 500_000,
    "blocks": "- " * 300_000,
}


@pytest.mark.parametrize("name", YAML_BOMBS)
def test_a_bomb_of_yaml_is_an_error_at_once(name: str) -> None:
    with pytest.raises(ConfigError) as caught:
        safeyaml.load_mapping(YAML_BOMBS[name], "file.yaml")
    assert str(caught.value).startswith("file.yaml") and len(str(caught.value)) < 300


@pytest.mark.parametrize(
    "text",
    [
        "a: 1:30:00", "a: 0x7fff", "a: '" + "9" * 1000 + "'", "a: " + "f00d" * 200,
        "a: 1.5e+300", "%YAML 1.1\n--- {a: 1}", "a: |\n  % 1\n" + "  % 2\n" * 200,
    ],
)  # fmt: skip
def test_what_only_looks_like_a_bomb_is_read(text: str) -> None:
    assert safeyaml.load_mapping(text, "file.yaml").keys() == {"a"}


# Pieces of YAML, so that many of the texts are more than a scalar.
_PIECES = st.sampled_from(
    ["a", "b", ": ", ":", "- ", "-", "\n", "\n  ", " ", "[", "]", "{", "}", ", ", "&a ", "*a",
     "<<: ", "!!int ", "!!float ", "!!bool ", "!!null ", "!!binary ", "!!timestamp ", "!!set ",
     "!!omap ", "!!pairs ", "!!str ", "!!python/name:os.system ", "! ", "? ", "| \n ", ">-\n ",
     "'", '"', "\\", "# ", "%TAG ! x\n", "---\n", "...\n", "1", "0x", "1:1", ".5", ".inf", "~",
     "=", "2001-01-01", "\t", "\r", "\ufeff", "\x85", "multi_user", "pam", "limits", "true"]
) | st.text(max_size=6)  # fmt: skip
_TEXTS = st.lists(_PIECES, max_size=30).map("".join)


@pytest.mark.figures
@settings(max_examples=figure(500, 50_000), deadline=None)
@given(_TEXTS)
def test_any_yaml_is_a_value_or_an_error(text: str) -> None:
    """A mapping of names that can be shown, or a ConfigError that names the file."""
    try:
        found = safeyaml.load_mapping(text, "file.yaml")
    except ConfigError as e:
        assert str(e).startswith("file.yaml:")
        return
    assert all(isinstance(key, str) for key in found) and repr(found)


@pytest.mark.parametrize("number", ["1e999", "-1e999", "1" * 5000, "NaN", "Infinity"])
def test_a_number_of_json_that_cannot_be_sent_on(number: str) -> None:
    with pytest.raises(ConfigError, match="schema.json: not JSON"):
        mappingfile.load_json(f'{{"maximum": {number}}}', "schema.json")


INI_BOMBS = {
    "white space in a line": "[mepd]\na" + " " * 500_000 + "b\n",
    "lines in error": "[mepd]\n" + "a\n" * 400_000,
    "lines in error, indented": "[mepd]\n" + " a\n" * 300_000,
    "sections": "".join(f"[endpoint:a{n}]\ndirectory=/x\n" for n in range(30_000)),
    "a quoted value": '[program:a]\ncommand = a\nenvironment = A="' + "x" * 900_000 + '"\n',
    "a key": "[mepd]\n" + "logfile" * 140_000 + " = 1\n",
    "a section": "[" + "mepd" * 200_000 + "]\n",
    "a repetition": "[mepd]\nmapped_name_pattern = a{99999999999}\n",
    "groups": "[mepd]\nmapped_name_pattern = " + "(" * 5000 + ")" * 5000 + "\n",
    "other line ends": "[mepd]\ruser = mepd\r",
}


@pytest.mark.parametrize("name", INI_BOMBS)
def test_a_bomb_of_ini_is_an_error_at_once(tmp_path: Path, name: str) -> None:
    path = tmp_path / "mepd.conf"
    path.write_bytes(INI_BOMBS[name].encode())
    with pytest.raises(ConfigError) as caught:
        ini.load(path, {})
    assert str(caught.value).startswith(f"{path}:")
    assert len(str(caught.value)) <= ConfigError.TEXT_MAX


def test_white_space_and_colons_as_ever(tmp_path: Path) -> None:
    path = tmp_path / "mepd.conf"
    path.write_text("[mepd]\nuser   \t =   mepd  \nstopwaitsecs: 3\npidfile=/a=b:c ; d\n")
    section = ini.load(path, {}).mepd
    assert (section.user, section.stopwaitsecs, str(section.pidfile)) == ("mepd", 3.0, "/a=b:c")


def test_a_byte_order_mark_and_line_ends_of_windows(tmp_path: Path) -> None:
    path = tmp_path / "mepd.conf"
    path.write_bytes(b"\xef\xbb\xbf[mepd]\r\nuser = mepd2\r\nstopwaitsecs = 3\r\n")
    section = ini.load(path, {}).mepd
    assert (section.user, section.stopwaitsecs) == ("mepd2", 3.0)
    (tmp_path / "map.json").write_bytes(b"\xef\xbb\xbf" + json.dumps([1]).encode())
    text = textfile.read_text(tmp_path / "map.json")
    assert text is not None and mappingfile.load_json(text, "map.json") == [1]


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    """As of a disk that fails: open(2) works, and read(2) does not."""
    (tmp_path / "map.json").symlink_to("/proc/self/mem")
    with pytest.raises(OSError, match="Input/output error: '.*/map.json'"):
        textfile.read_text(tmp_path / "map.json")


@pytest.mark.parametrize(
    "text",
    [
        "{% include " * 90_000, "{% include '" * 80_000, "{% from '" * 100_000 + "%}",
        "{%" * 500_000,
        "worker_init: " + "{{ '" * 200_000, "worker_init: {{" + "'\\" * 300_000 + "}}",
        "worker_init: {{" + " is" * 300_000 + "}}", "worker_init" + " " * 900_000 + "x",
    ],
    ids=range(8),
)  # fmt: skip
def test_a_template_is_looked_through_at_once(text: str) -> None:
    """By the master, for what it includes; and for what deserves a warning."""
    assert all(len(name) < 256 for name in includes.named(text))
    assert len(templatelint.lint({"t.j2": text})) < 2


@pytest.mark.parametrize("text", ["(" * 300_000, "(a*" * 150_000 + ")*" * 150_000, "{" * 900_000])
def test_rules_are_looked_through_at_once(text: str) -> None:
    rule = {"source": "x", "match": text, "output": text}
    mappinglint.lint([{"DATA_TYPE": mappingfile.EXPRESSION, "mappings": [rule]}])


def test_a_link_to_nowhere_is_no_missing_file(tmp_path: Path) -> None:
    """Without its schema an endpoint would take any option."""
    (tmp_path / "user_config_template.yaml.j2").write_text("engine: {}")
    (tmp_path / "config.yaml").write_text("")
    schema = tmp_path / "user_config_schema.json"
    assert "user_config_schema.json" not in endpoint.read_files(tmp_path)
    schema.symlink_to("..data/schema.json")
    with pytest.raises(ConfigError, match="schema.json: is a link to a file that does not exist"):
        endpoint.read_files(tmp_path)
    (tmp_path / "..data").mkdir()
    (tmp_path / "..data/schema.json").write_text("{}")
    assert endpoint.read_files(tmp_path)["user_config_schema.json"] == "{}"
