"""Reading one block of a configuration: typed values, errors that carry the full name."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from mepd.errors import ConfigError


INTEGER_MAX = 2**31 - 1
"""More than any count that is meant; what is computed from it fits a float."""
_FLOAT_MAX = 1e308


def is_number(value: Any) -> bool:
    """Whether it is a number that a float can hold: no infinity, no integer of 400 digits."""
    return type(value) in (int, float) and -_FLOAT_MAX <= value <= _FLOAT_MAX


def _is_text(value: str) -> bool:
    """Whether it can be given to the system: without NUL, and with lone surrogates nowhere."""
    try:
        return b"\0" not in value.encode()
    except UnicodeEncodeError:
        return False


def unknown(name: str, known: Iterable[str], what: str) -> ConfigError:
    """The error for a name that is none of ``known``, with the nearest of them."""
    import difflib  # 5 ms, for errors alone

    near = difflib.get_close_matches(name[:128], list(known), n=1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    return ConfigError(f"unknown {what} {name[:80]!r}{hint}")


class Block:
    """Typed reading of one mapping; ``prefix`` is where it stands, with its dot."""

    def __init__(self, values: dict[str, Any], prefix: str = "") -> None:
        self._values = values
        self._prefix = prefix

    def fail(self, key: str, need: str) -> ConfigError:
        shown = repr(self._values.get(key))[:80]
        return ConfigError(f"{self._prefix}{key}: {need}, not {shown}")

    def integer(self, key: str, default: int, low: int, high: int = INTEGER_MAX) -> int:
        value = self._values.get(key)
        if value is None:
            return default
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if type(value) is not int or not low <= value <= high:
            raise self.fail(key, f"needs a whole number from {low} to {high}")
        return int(value)

    def seconds(self, key: str, default: float, low: float, high: float) -> float:
        value = self._values.get(key)
        if value is None:
            return default
        if not is_number(value) or not low <= value <= high:
            raise self.fail(key, f"needs a number of seconds from {low:g} to {high:g}")
        return float(value)

    def boolean(self, key: str, default: bool = False) -> bool:
        value = self._values.get(key)
        if value is None:
            return default
        if type(value) is not bool:
            raise self.fail(key, "needs true or false")
        return bool(value)

    def text(self, key: str, default: str | None = None) -> str | None:
        value = self._values.get(key)
        if value is None:
            return default
        if type(value) is not str or not _is_text(value):
            raise self.fail(key, "needs a string")
        return str(value)

    def names(self, key: str) -> tuple[str, ...] | None:
        value = self._values.get(key)
        if value is None:
            return None
        if type(value) is not list or any(type(v) is not str for v in value):
            raise self.fail(key, "needs a list of strings")
        return tuple(value)
