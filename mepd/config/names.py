"""What an endpoint or program may be called."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable

from mepd.errors import ConfigError

UUID = re.compile(r"[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+@-]{0,127}")


def check_name(name: str, path: str = "", line: int = 0, kind: str = "endpoint") -> None:
    """Raises ConfigError unless ``name`` is fit for a folder, a section, a title and a log."""
    if UUID.fullmatch(name):
        raise ConfigError(f"Invalid {kind} name: {name!r} is a UUID", path, line)
    if _NAME.fullmatch(name) is None:
        raise ConfigError(
            f"Invalid {kind} name: {name[:140]!r}; up to 128 letters, digits and _.+@-,"
            " not beginning with a dot, a dash or a sign", path, line,
        )  # fmt: skip


def nearest(name: str, known: Iterable[str]) -> str:
    """``; the nearest known is 'x'``, for an error about ``name``."""
    # 128: comparing takes time by length, and no name that is known is longer
    close = difflib.get_close_matches(name[:128], list(known), n=1, cutoff=0.0)
    return f"; the nearest known is {close[0]!r}" if close else ""
