"""Bounds on JSON values that came from outside: depth, number, size of integers, finiteness."""

from __future__ import annotations

import math
from typing import Any

from mepd.errors import WireError

INT_MAX = 2**63 - 1
VALUES_MAX = 32_768
"""More than fit into 64 KB; to look at so many takes some hundredths of a second."""
Place = tuple[Any, object]
"""Where a value stands: its container's place and its key, or what all of it is called."""


def check(value: Any, what: str, depth: int = 32, most: int = VALUES_MAX) -> None:
    """Raise WireError, naming the path, if ``value`` is too deep or has a bad number.

    Also if it holds more than ``most`` values: who looks at them must soon be done.
    """
    seen = 0
    stack: list[tuple[Any, Place, int]] = [(value, (None, what), 0)]
    while stack:
        node, place, level = stack.pop()
        if level > depth:
            raise WireError(f"{path(place)}: nested deeper than {depth}")
        if isinstance(node, (dict, list)):
            seen += len(node)
            if seen > most:
                raise WireError(f"{what}: more than {most} values")
            items = node.items() if isinstance(node, dict) else enumerate(node)
            stack.extend((v, (place, k), level + 1) for k, v in items)
        elif isinstance(node, float) and not math.isfinite(node):
            raise WireError(f"{path(place)}: not a finite number")
        elif isinstance(node, int) and not -INT_MAX - 1 <= node <= INT_MAX:
            raise WireError(f"{path(place)}: integer does not fit 64 bits")


def path(place: Place) -> str:
    """``what.key[0].key``, its first 120 characters."""
    keys: list[object] = []
    while place is not None:
        place, key = place
        keys.append(key)
    what, *rest = reversed(keys)
    return f"{what}{''.join(f'[{k}]' if isinstance(k, int) else f'.{k}' for k in rest)}"[:120]
