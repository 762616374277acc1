"""Bounds on JSON values that came from outside: depth, size of integers, finiteness."""

from __future__ import annotations

import math
from typing import Any

from mepd.errors import WireError

INT_MAX = 2**63 - 1


def check(value: Any, what: str, depth: int = 32) -> None:
    """Raise WireError, naming the path, if ``value`` is too deep or has a bad number."""
    stack: list[tuple[Any, str, int]] = [(value, what, 0)]
    while stack:
        node, path, level = stack.pop()
        if level > depth:
            raise WireError(f"{path[:120]}: nested deeper than {depth}")
        if isinstance(node, dict):
            stack.extend((v, f"{path}.{k}", level + 1) for k, v in node.items())
        elif isinstance(node, list):
            stack.extend((v, f"{path}[{i}]", level + 1) for i, v in enumerate(node))
        elif isinstance(node, float) and not math.isfinite(node):
            raise WireError(f"{path[:120]}: not a finite number")
        elif isinstance(node, int) and not -INT_MAX - 1 <= node <= INT_MAX:
            raise WireError(f"{path[:120]}: integer does not fit 64 bits")
