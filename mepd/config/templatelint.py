"""Warnings about templates that give users more than config.yaml lets them have."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

_KEYS = (
    "worker_init", "endpoint_setup", "endpoint_teardown", "scheduler_options", "select_options",
    "overrides", "prepend", "launch_cmd", "interchange_launch_cmd", "container_cmd_options",
)  # fmt: skip
"""What ends in a shell, or in the script of a job."""
_SHELL = re.compile(rf"(?<![\w.])['\"]?(?P<key>{'|'.join(_KEYS)})['\"]?\s*:(?P<rest>.*)")
_INDENT = re.compile(r"[ -]*")
_NEXT_KEY = re.compile(r",\s*['\"]?\w+['\"]?\s*:")
_EXPRESSION_MAX = 1000
_LITERAL = re.compile(r"'(?:\\.|[^'\\])*'|\"(?:\\.|[^\"\\])*\"")
_TEST = re.compile(r"\bis\s+(?:not\s+)?\w+")
_NAME = re.compile(r"(?P<of>[.|]\s*)?\b(?P<name>[A-Za-z_]\w*)\b(?P<after>\s*(?:\(|=(?!=)))?")
_WORDS = ("and", "or", "not", "in", "if", "else", "true", "false", "none", "True", "False", "None")
_SITE = ("parent_config", "mapped_identity")


def _shell_lines(text: str) -> Iterator[tuple[int, str, str]]:
    """(line number, key, text) of what becomes a shell command: a key's own line, and the
    lines of a block below it."""
    key, depth = "", -1
    for number, line in enumerate(text.split("\n"), start=1):
        found = _SHELL.search(line)
        if found:
            begin = _INDENT.match(line)
            key, depth = found["key"], begin.end() if begin else 0
            flow = found.start() > depth
            yield number, key, _NEXT_KEY.split(found["rest"])[0] if flow else found["rest"]
            key = "" if flow else key
            continue
        indent = len(line) - len(line.lstrip(" "))
        if key and line.strip() and indent <= depth and not line.lstrip().startswith("{"):
            key = ""
        if key:
            yield number, key, line


def _printed(line: str) -> Iterator[str]:
    """The expressions of a line; of an endless one its beginning."""
    start = line.find("{{")
    while start >= 0:
        end = line.find("}}", start + 2)
        if end < 0:
            return
        yield line[start + 2 : min(end, start + _EXPRESSION_MAX)]
        start = line.find("{{", end + 2)


def _from_users(line: str) -> Iterator[str]:
    """Of each expression that a line prints, a name that may be a user's; of a function
    only if nothing else is."""
    for printed in _printed(line):
        if "shell_escape" in printed:
            continue
        bare = _TEST.sub(" ", _LITERAL.sub(" ", printed))
        names = [n for n in _NAME.finditer(bare) if not n["of"] and n["name"] not in _WORDS]
        own = [n for n in names if n["name"] not in _SITE and not (n["after"] or "").endswith("=")]
        own.sort(key=lambda n: n["after"] is not None)
        yield from (n["name"] for n in own[:1])


def lint(templates: Mapping[str, str]) -> tuple[str, ...]:
    """For endpoints with allowed_functions: one text for each line of ``templates`` (texts
    by name) in which a user's option becomes part of a shell command."""
    return tuple(
        f"allowed_functions is set, but {key} takes {{{{ {found} }}}} from the user"
        f" ({name}:{number}), who can run any command that way; use the filter shell_escape"
        for name, text in templates.items()
        for number, key, line in _shell_lines(text)
        for found in _from_users(line)
    )
