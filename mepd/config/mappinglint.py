"""Warnings about identity mapping rules that are valid and yet say more than they seem to."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from mepd.config.mappingfile import EXPRESSION

_ESCAPED = re.compile(r"\\.")
_BARE_DOT = re.compile(r"\.(?![*?])")
_FIELD = re.compile(r"\{([^{}]*)\}")
_GROUP = re.compile(r"\((?!\?)")


def _top_level(pattern: str) -> str:
    """The pattern without what stands in parentheses."""
    depth, out = 0, []
    for char in pattern:
        depth += char == "("
        if not depth:
            out.append(char)
        depth -= char == ")" and depth > 0
    return "".join(out)


def _repeats_a_repetition(pattern: str) -> bool:
    """Whether a group that repeats something, at any depth, is itself repeated."""
    groups = [False]
    for at, char in enumerate(pattern):
        after = pattern[at + 1 : at + 2]
        if char == "(":
            groups.append(False)
        elif char == ")" and len(groups) > 1:
            inner = groups.pop()
            if inner and after == "*":
                return True
            groups[-1] |= inner
        elif char in "*?" and pattern[at - 1 : at] != "(":
            groups[-1] = True
    return False


def _faults(rule: Mapping[str, Any]) -> Iterator[str]:
    literal = rule.get("literal") is True
    pattern = "" if literal else _ESCAPED.sub("", rule["match"])
    if "|" in _top_level(pattern):
        yield (
            "'|' outside parentheses: mepd anchors every branch at both ends, other users of"
            " this file may not; write (a|b)"
        )
    if _BARE_DOT.search(pattern):
        yield "an unescaped '.' matches any character; write \\\\. for a dot"
    if _repeats_a_repetition(pattern):
        yield "a repetition of a repetition can take forever; starts that do are refused"
    groups = len(_GROUP.findall(pattern))
    beyond = [f for f in _FIELD.findall(rule["output"]) if f.isdigit() and int(f) >= groups]
    if beyond:
        yield f"output takes {{{beyond[0]}}}, and match has {groups} groups: it never maps"
    steered = [f for f in _FIELD.findall(rule["output"]) if not f.isdigit()]
    if steered:
        yield f"output takes {{{steered[0]}}} from the identity, whatever it holds"


def lint(documents: Sequence[Mapping[str, Any]]) -> tuple[str, ...]:
    """One text per doubtful rule of the (valid) documents, naming document and rule."""
    return tuple(
        f"identity mapping, document {number}, rule {position} ({rule['match'][:80]!r}): {fault}"
        for number, document in enumerate(documents, start=1)
        if document["DATA_TYPE"] == EXPRESSION
        for position, rule in enumerate(document["mappings"], start=1)
        for fault in _faults(rule)
    )
