"""Values as a template may print them: what is put in never becomes structure.

Texts are JSON strings that are the same strings in YAML, in which nothing can end the
string, add a key, or be seen by Jinja.
"""

from __future__ import annotations

import json
import math
import re
import shlex
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

_KEY = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]{0,127}")
_UNPRINTABLE = re.compile("[\x7f-\x9f\u2028\u2029\ufeff\ufffe\uffff]")
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029]")
_SURROGATE = re.compile("[\ud800-\udfff]")
_PLAIN = re.compile(r"[\w/][\w/.@+-]*(?: [\w/.@+-]+)*", re.ASCII)
_ACTIVE = re.compile(r"[^A-Za-z0-9_@%+=:,./\-\x80-\U0010ffff]")


@dataclass(frozen=True)
class Span:
    """Where in a text a quoted value stands, and whose it is."""

    start: int
    end: int
    path: str


class Placed(str):
    """Text that knows which parts of it are quoted values, for as long as it is only joined.

    What a filter makes of it is plain text again.
    """

    spans: tuple[Span, ...] = ()

    def __str__(self) -> str:
        return self


def join(parts: Iterable[str]) -> Placed:
    """The parts as one text that knows its quoted values."""
    texts, spans, at = [], [], 0
    for part in parts:
        if isinstance(part, Placed):
            spans += [Span(at + s.start, at + s.end, s.path) for s in part.spans]
        texts.append(part)
        at += len(part)
    whole = Placed("".join(texts))
    whole.spans = tuple(spans)
    return whole


def _place(quoted: str, path: str) -> Placed:
    placed = Placed(quoted)
    placed.spans = (Span(0, len(quoted), path),)
    return placed


class _Mapping(dict[str, Any]):
    """A dict that a template may print: as a YAML flow mapping with its values quoted."""

    def __str__(self) -> str:
        parts: list[str] = []
        for key, value in self.items():
            parts += [", " if parts else "{", quote(str(key)), ": ", _text(value)]
        return join([*parts, "}" if parts else "{}"])

    __repr__ = __str__


class _Sequence(list[Any]):
    def __str__(self) -> str:
        parts: list[str] = []
        for value in self:
            parts += [", " if parts else "[", _text(value)]
        return join([*parts, "]" if parts else "[]"])

    __repr__ = __str__


class _Float(float):
    """A float whose text is a YAML 1.1 float, too (1e+16 is not, 1.0e+16 is)."""

    def __str__(self) -> str:
        text = float.__repr__(self)
        mantissa, e, exponent = text.partition("e")
        return text if "." in mantissa or not e else f"{mantissa}.0e{exponent}"

    __repr__ = __str__


def _text(value: Any) -> str:
    if value is None or isinstance(value, bool):
        return json.dumps(value)
    return quote(value) if type(value) is str else str(printable(value))


def printable(value: Any) -> Any:
    """What a template prints, for Jinja's ``finalize``: lists and mappings of its own, too."""
    if isinstance(value, (list, tuple)):
        return value if isinstance(value, _Sequence) else _Sequence(value)
    if isinstance(value, dict):
        return value if isinstance(value, _Mapping) else _Mapping(value)
    return value


def quote(text: str) -> str:
    """``text`` as a JSON string that is the same string in YAML. Raises ValueError."""
    if _SURROGATE.search(text):
        raise ValueError("a string holds a lone surrogate")
    quoted = json.dumps(text, ensure_ascii=False)
    return _UNPRINTABLE.sub(lambda m: f"\\u{ord(m[0]):04x}", quoted)


def sanitize(value: Any, path: str) -> Any:
    """A user's value as the template may see it. Raises ValueError naming the path."""
    if isinstance(value, dict):
        for key in value:
            if _KEY.fullmatch(key) is None:
                raise ValueError(f"{path}: {key[:64]!r} is not allowed as a key")
        return _Mapping({k: sanitize(v, f"{path}.{k}") for k, v in value.items()})
    if isinstance(value, list):
        return _Sequence(sanitize(v, f"{path}[{i}]") for i, v in enumerate(value))
    if isinstance(value, str):
        try:
            return _place(quote(value), path)
        except ValueError as e:
            raise ValueError(f"{path}: {e}") from None
    if value is None:
        return "null"
    if isinstance(value, float) and not isinstance(value, bool):
        if not math.isfinite(value):
            raise ValueError(f"{path}: not a finite number")
        return _Float(value)
    return value


def shell_escape(value: Any) -> Any:
    """The shell_escape filter: one word for a shell, as a string of YAML.

    Within the string's quotes every character that means something to a shell is written
    as YAML's escape of it. So a template that puts the string amid other text, where
    nobody undoes the escapes, hands the shell a wrong word, and never a command.
    """
    if not isinstance(value, str):
        return value
    try:
        inner = json.loads(value)
    except ValueError:
        inner = value
    if not isinstance(inner, str):
        return value
    if _SURROGATE.search(inner):
        raise ValueError("a string holds a lone surrogate")
    path = value.spans[0].path if isinstance(value, Placed) and value.spans else "shell_escape"
    return _place('"' + "".join(map(_inert, shlex.quote(inner))) + '"', path)


def _inert(character: str) -> str:
    if _ACTIVE.match(character) or _UNPRINTABLE.match(character):
        return f"\\u{ord(character):04x}"
    return character


class _Shown(str):
    """A text of mepd's own: as it is where YAML cannot take it for anything else."""

    def __str__(self) -> str:
        text = str.__str__(self)
        if _PLAIN.fullmatch(text):
            return text
        return _place(quote(_SURROGATE.sub("\ufffd", text)), "mapped_identity")


def shown(value: Any) -> Any:
    """A value of mepd's own, some of which others wrote (gecos, by chfn(1)), for templates.

    A name or a path prints as it is, any other text as a quoted string. Filters take the
    quotes away again, so there is a blank for what could begin a new line.
    """
    if isinstance(value, dict):
        return _Mapping({str(k): shown(v) for k, v in value.items()})
    if isinstance(value, list):
        return _Sequence(map(shown, value))
    return _Shown(_CONTROL.sub(" ", value)) if isinstance(value, str) else value
