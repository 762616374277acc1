"""The text of a log line: no credential, one line, only printable characters. Pure.

Everything is linear in the length of the text: what is logged may come from outside.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

LINE_MAX = 4096
"""Bytes of a line of the log, with its head and its newline."""
MESSAGE_MAX = 4000
"""Bytes of a message, so that its head has room."""
_RAW_MAX = 16 * 1024
_DEPTH_MAX = 20
_HIDDEN = "***"

_TELLING = (
    "password|passwd|passphrase|secret|token|enckey|authorization|api_?key|private_?key|cookie"
)
_SECRET_KEY = re.compile(rf"(?:{_TELLING}|amqp_creds|credentials?|queue_info)s?\Z", re.I)
# User information of a URL: up to the last @ before a blank, for a password holds anything.
_URL_CREDENTIALS = re.compile(
    r"(?<![a-z0-9+.-])([a-z][a-z0-9+.-]{0,20}://)[^\s@]{0,500}@(?:[^\s@]{0,200}@){0,4}", re.I
)
# One that was cut off before its @: what stands where the port would, and is none.
_URL_CUT_OFF = re.compile(
    r"(?<![a-z0-9+.-])([a-z][a-z0-9+.-]{0,20}://)[^\s@/?#:\[\]]{0,200}:"
    r"(?![/?#\s])(?!\d{1,5}(?:[/?#\s'\"),.;:\]}>\\]|$))[^\s@]{1,500}", re.I
)  # fmt: skip
_SCHEMES = r"(?:Bearer|Basic|Digest|Negotiate)\s+"
_SCHEME = re.compile(rf"\b({_SCHEMES})[A-Za-z0-9._~+/=-]{{6,}}", re.I)
_JWT = re.compile(r"\beyJ[A-Za-z0-9_-]{5,}\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]*")
_VALUES = (
    r'\\"(?:(?!\\").)*(?:\\"|$)',  # \"JSON within JSON\"
    r'b?"(?:\\.|[^"\\])*(?:"|$)',
    r"b?'(?:\\.|[^'\\])*(?:'|$)",
    r"\[[^\]]*(?:\]|$)",
    r"\{[^}]*(?:\}|$)",
    rf"(?:{_SCHEMES})?[^\s,;}}'\"]+",
)
_SECRET_FIELD = re.compile(
    rf"((?:{_TELLING})(?:\\?[\"'])?\s{{0,4}}(?:=>|[:=])\s{{0,4}})(?:{'|'.join(_VALUES)})", re.I
)


def redact(text: str) -> str:
    """Hide credentials by pattern: users of URLs, values of fields with telling names."""
    text = _URL_CREDENTIALS.sub(rf"\1{_HIDDEN}@", text)
    text = _URL_CUT_OFF.sub(rf"\1{_HIDDEN}", text)
    text = _SECRET_FIELD.sub(rf"\1{_HIDDEN}", text)
    text = _SCHEME.sub(rf"\1{_HIDDEN}", text)
    return _JWT.sub(_HIDDEN, text)


def redact_value(value: Any, depth: int = 0) -> Any:
    """Hide credentials by field: the values of telling keys in mappings and lists."""
    if depth > _DEPTH_MAX:
        return "..."
    if isinstance(value, Mapping):
        return {
            k: _HIDDEN if isinstance(k, str) and _SECRET_KEY.search(k)
            else redact_value(v, depth + 1)
            for k, v in value.items()
        }  # fmt: skip
    if isinstance(value, list):
        return [redact_value(v, depth + 1) for v in value]
    if type(value) is tuple:
        return tuple(redact_value(v, depth + 1) for v in value)
    return value


def _escaped(character: str) -> str:
    if character.isprintable():
        return character
    return character.encode("unicode_escape").decode("ascii")


def one_line(text: str, limit: int = MESSAGE_MAX) -> str:
    """``text`` as one printable line of at most ``limit`` bytes in UTF-8.

    What could end a line, steer a terminal or reorder what one reads is shown as an escape
    sequence; a tab is a blank.
    """
    text = text[:_RAW_MAX]
    if not text.isprintable():
        text = "".join(map(_escaped, text.replace("\t", " ")))
    return cut(text, limit)


def cut(text: str, limit: int) -> str:
    """At most ``limit`` bytes of ``text`` in UTF-8: where it was longer, dots for its middle.

    The end is kept because an exception's text stands there, and whom a line is about.
    """
    data = text.encode("utf-8", "backslashreplace")
    if len(data) <= limit:
        return text
    end = limit // 3
    head = data[: limit - end - 5].decode("utf-8", "ignore")
    return f"{head} ... {data[-end:].decode('utf-8', 'ignore')}"


def safe(text: str, limit: int = MESSAGE_MAX) -> str:
    """Both: without credentials, and one printable line.

    Cut first, at a blank if there is one, so that no credential is cut in two.
    """
    if len(text) > _RAW_MAX:
        text = text[:_RAW_MAX].rpartition(" ")[0] or text[:_RAW_MAX]
    return one_line(redact(text), limit)
