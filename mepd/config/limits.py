"""``limits`` of an endpoint's config.yaml."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from mepd.config.names import nearest
from mepd.posix.rlimits import RESOURCES, UNLIMITED, Limit

_SIZE = re.compile(r"(\d{1,15})\s*([KMG]B)?", re.ASCII)
_UNITS = {None: 1, "KB": 2**10, "MB": 2**20, "GB": 2**30}
_MAX = 2**62


def parse(block: Mapping[Any, Any]) -> tuple[Limit, ...]:
    """Names of limits.conf(5) to a value, or to ``SOFT:HARD``. Raises ValueError."""
    return tuple(_limit(name, value) for name, value in block.items())


def _limit(name: object, value: object) -> Limit:
    if not isinstance(name, str) or name not in RESOURCES:
        raise ValueError(f"unknown limit {str(name)[:50]!r}{nearest(str(name), RESOURCES)}")
    words = value.split(":") if isinstance(value, str) else [value]
    if len(words) > 2:
        raise ValueError(f"{name} must be a value or SOFT:HARD")
    soft, hard = (_value(name, word) for word in (words[0], words[-1]))
    if hard != UNLIMITED and (soft == UNLIMITED or soft > hard):
        raise ValueError(f"{name}: the soft limit is above the hard one")
    return Limit(name, soft, hard)


def _value(name: str, word: object) -> int:
    if type(word) is int and 0 <= word <= _MAX:
        return word
    if isinstance(word, str):
        if word.strip().lower() == "unlimited":
            return UNLIMITED
        found = _SIZE.fullmatch(word.strip().upper())
        if found is not None:
            return min(_MAX, int(found[1]) * _UNITS[found[2]])
    raise ValueError(f"{name} must be a number, a size such as 4GB, or unlimited")
