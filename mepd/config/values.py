"""One value of the INI file, and its conversions; each raises ConfigError with its place."""

from __future__ import annotations

import os
import re
import shlex
import signal as signals
import urllib.parse
from dataclasses import dataclass
from pathlib import Path

from mepd.errors import ConfigError

_SIZES = {"KB": 1024, "MB": 1024**2, "GB": 1024**3}
_LOGS = ("file", "syslog", "journald", "stderr")
TIMEOUT_MAX = 1_000_000
BACKUPS_MAX = 1_000
_LEVELS = ("debug", "info", "warning", "error", "critical")


@dataclass(frozen=True)
class Value:
    """The text of a key, and where it stands."""

    text: str
    path: Path
    line: int
    key: str

    @property
    def here(self) -> Path:
        """The folder of its file: what relative paths start from."""
        return self.path.parent

    def error(self, message: str) -> ConfigError:
        return ConfigError(f"{self.key}: {message}", str(self.path), self.line)


def text(value: Value) -> str:
    return value.text


def word(value: Value) -> str:
    """Something without white space, such as the name of a user."""
    if not re.fullmatch(r"\S+", value.text):
        raise value.error("must be one word" if value.text else "is empty")
    return value.text


def boolean(value: Value) -> bool:
    said = value.text.lower()
    if said in ("true", "yes", "on", "1"):
        return True
    if said in ("false", "no", "off", "0"):
        return False
    raise value.error(f"{value.text!r} is neither true nor false")


def integer(value: Value) -> int:
    if not re.fullmatch(r"\d{1,9}", value.text, re.ASCII):
        raise value.error(f"{value.text!r} is no whole number")
    return int(value.text)


def backups(value: Value) -> int:
    """Each of them is renamed whenever a log is rotated."""
    number = integer(value)
    if number > BACKUPS_MAX:
        raise value.error(f"must be {BACKUPS_MAX:,} at the most")
    return number


def optional_integer(value: Value) -> int | None:
    return integer(value) if value.text else None


def seconds(value: Value) -> float:
    if not re.fullmatch(r"\d{1,9}(\.\d{1,6})?", value.text, re.ASCII):
        raise value.error(f"{value.text!r} is no number of seconds")
    return float(value.text)


def timeout(value: Value) -> float:
    """Seconds that the system can wait for: poll(2) takes 24 days."""
    number = seconds(value)
    if not 0 < number <= TIMEOUT_MAX:
        raise value.error(f"must be above 0, and {TIMEOUT_MAX:,} at the most")
    return number


def pattern(value: Value) -> str:
    """A regular expression for a whole name."""
    try:
        re.compile(value.text)
    except (re.error, OverflowError, RecursionError) as e:
        raise value.error(f"{value.text[:80]!r} is no regular expression: {e}") from None
    if not value.text:
        raise value.error("is empty")
    return value.text


def size(value: Value) -> int:
    """Bytes; ``KB``, ``MB`` and ``GB`` are powers of 1024, as in supervisord."""
    match = re.fullmatch(r"(\d{1,12})\s*([KMG]B)?", value.text.upper(), re.ASCII)
    if match is None:
        raise value.error(f"{value.text!r} is no size such as 50MB")
    return int(match[1]) * _SIZES.get(match[2], 1)


def mode(value: Value) -> int:
    if not re.fullmatch(r"(0o)?[0-7]{3,4}", value.text):
        raise value.error(f"{value.text!r} is no octal mode such as 0660")
    return int(value.text.removeprefix("0o"), 8)


def path(value: Value) -> Path:
    if not value.text or "\n" in value.text:
        raise value.error("must be one path" if value.text else "is empty")
    try:
        return Path(os.path.normpath(value.here / Path(value.text).expanduser()))
    except RuntimeError:
        raise value.error(f"{value.text!r} names the home of nobody") from None


def optional_path(value: Value) -> Path | None:
    return path(value) if value.text else None


def interval(value: Value) -> float:
    """Seconds between two of something; at least one."""
    said = seconds(value)
    if said < 1:
        raise value.error(f"{value.text!r} is less than a second")
    return said


def level(value: Value) -> str:
    said = {"warn": "warning"}.get(value.text.lower(), value.text.lower())
    if said not in _LEVELS:
        raise value.error(f"{value.text!r} is not one of {', '.join(_LEVELS)}")
    return said


def names(value: Value) -> tuple[str, ...]:
    """Words between commas or white space."""
    return tuple(n for n in re.split(r"[,\s]+", value.text) if n)


def logs(value: Value) -> tuple[str, ...]:
    """Where the log goes; at least one place."""
    said = tuple(dict.fromkeys(name.lower() for name in names(value)))
    wrong = next((name for name in said if name not in _LOGS), "" if said else "nothing")
    if wrong:
        raise value.error(f"{wrong!r} is not one of {', '.join(_LOGS)}")
    return said


def owner(value: Value) -> str:
    """USER[:GROUP]."""
    if not re.fullmatch(r"[^\s:]+(:[^\s:]+)?", value.text):
        raise value.error(f"{value.text!r} is not USER or USER:GROUP")
    return value.text


def command(value: Value) -> tuple[str, ...]:
    try:
        words = tuple(shlex.split(value.text))
    except ValueError as e:
        raise value.error(str(e)) from None
    if not words or not words[0]:
        raise value.error("is empty")
    return words


def environment(value: Value) -> tuple[tuple[str, str], ...]:
    """``A="x",B="y"``; quoted values may hold commas."""
    lexer = shlex.shlex(value.text, posix=True, punctuation_chars=",")
    lexer.whitespace_split = True
    lexer.commenters = ""
    try:
        words = [w for w in lexer if set(w) != {","}]
    except ValueError as e:
        raise value.error(str(e)) from None
    pairs = {}
    for pair in words:
        name, equals, what = pair.partition("=")
        if not equals or not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name):
            raise value.error(f'{pair[:60]!r} is not of the form NAME="value"')
        pairs[name] = what
    return tuple(pairs.items())


def url(value: Value) -> str:
    """What can be asked, with the path of a route behind it. Not told: it may hold a secret."""
    plain = value.text.isascii() and value.text.isprintable()
    if not plain or not re.fullmatch(r"https?://[^\s/@?#]+(/[^\s@?#]*)?", value.text):
        raise value.error("is no http or https URL without user information, query or fragment")
    if not _has_place(value.text):
        raise value.error("names no host and port that there can be")
    return value.text.rstrip("/")


def _has_place(address: str) -> bool:
    try:
        parts = urllib.parse.urlsplit(address)
        port = parts.port
    except ValueError:
        return False
    host = re.fullmatch(r"(\[[^][]+\]|[^][:]+)(:\d*)?", parts.netloc)
    return host is not None and port != 0


def signal(value: Value) -> str:
    name = value.text.upper().removeprefix("SIG")
    if f"SIG{name}" not in signals.Signals.__members__:
        raise value.error(f"{value.text!r} is no signal")
    return name
