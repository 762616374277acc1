"""Reading one block of a configuration: typed values, errors that carry the full name."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

from mepd.errors import ConfigError


def unknown(name: str, known: Iterable[str], what: str) -> ConfigError:
    """The error for a name that is none of ``known``, with the nearest of them."""
    import difflib  # 5 ms, for errors alone

    near = difflib.get_close_matches(name, list(known), n=1)
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

    def integer(self, key: str, default: int, low: int) -> int:
        value = self._values.get(key)
        if value is None:
            return default
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if type(value) is not int or value < low:
            raise self.fail(key, f"needs a whole number of at least {low}")
        return int(value)

    def seconds(self, key: str, default: float) -> float:
        value = self._values.get(key)
        if value is None:
            return default
        if type(value) not in (int, float) or not math.isfinite(value) or value <= 0:
            raise self.fail(key, "needs a number of seconds above 0")
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
        if type(value) is not str:
            raise self.fail(key, "needs a string")
        return str(value)

    def names(self, key: str) -> tuple[str, ...] | None:
        value = self._values.get(key)
        if value is None:
            return None
        if type(value) is not list or any(type(v) is not str for v in value):
            raise self.fail(key, "needs a list of strings")
        return tuple(value)
