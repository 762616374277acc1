"""Warnings about templates that give users more than config.yaml lets them have."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

_SHELL = re.compile(
    r"(?P<indent>[ -]*)['\"]?(?P<key>worker_init|endpoint_setup)['\"]?\s*:(?P<rest>.*)"
)
_PRINTED = re.compile(r"\{\{-?[\s(]*(?P<name>[A-Za-z_]\w*)(?P<rest>.*?)\}\}")
_SITE = ("parent_config", "mapped_identity")


def _shell_lines(text: str) -> Iterator[tuple[int, str, str]]:
    """(line number, key, text) of what becomes a shell command: a key's own line, and the
    lines of a block below it."""
    key, depth = "", -1
    for number, line in enumerate(text.split("\n"), start=1):
        found = _SHELL.match(line)
        if found:
            key, depth = found["key"], len(found["indent"])
            yield number, key, found["rest"]
            continue
        indent = len(line) - len(line.lstrip(" "))
        if key and line.strip() and indent <= depth and not line.lstrip().startswith("{"):
            key = ""
        if key:
            yield number, key, line


def lint(templates: Mapping[str, str]) -> tuple[str, ...]:
    """For endpoints with allowed_functions: one text for each line of ``templates`` (texts
    by name) in which a user's option becomes part of a shell command."""
    return tuple(
        f"allowed_functions is set, but {key} takes {{{{ {found['name']} }}}} from the user"
        f" ({name}:{number}), who can run any command that way; use the filter shell_escape"
        for name, text in templates.items()
        for number, key, line in _shell_lines(text)
        for found in _PRINTED.finditer(line)
        if found["name"] not in _SITE and "shell_escape" not in found["rest"]
    )
