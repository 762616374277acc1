"""How long to wait before trying again."""

from __future__ import annotations

import os

FIRST = 0.25
MOST = 30.0


def delay(failures: int) -> float:
    """Seconds before the next attempt: doubling from FIRST, at most MOST; 0 without failure."""
    return min(MOST, FIRST * 2.0 ** min(failures - 1, 16)) if failures > 0 else 0.0


def jittered(failures: int) -> float:
    """``delay`` less up to a quarter, so that many UEPs do not come back at once.

    The module random is loaded late, from a file, and there may be no descriptor for one.
    """
    return delay(failures) * (1.0 - os.urandom(1)[0] / 1024)
