"""The idle clock: when a user endpoint has nothing to do for so long that it goes."""

from __future__ import annotations

import enum
from dataclasses import dataclass


class Limit(enum.Enum):
    """Which limit a deadline belongs to."""

    SOFT = "soft"
    HARD = "hard"


@dataclass(frozen=True)
class IdleLimits:
    """``period`` in seconds; ``soft`` and ``hard`` in heartbeats, 0 for never."""

    period: float
    soft: int
    hard: int


@dataclass(frozen=True)
class Movement:
    """``last_move`` is a monotonic time in seconds: start, task received or result sent."""

    last_move: float
    received: int = 0
    done: int = 0
    outstanding: int = 0


def deadline(limits: IdleLimits, moved: Movement) -> tuple[float, Limit] | None:
    """The monotonic time at which to stop, and why; None for never.

    The soft limit needs that no task is outstanding and that some task has come; the hard
    limit counts from the last movement whatever is outstanding.
    """
    if limits.soft and not moved.outstanding and (moved.received or moved.done):
        return moved.last_move + limits.soft * limits.period, Limit.SOFT
    if limits.hard:
        return moved.last_move + limits.hard * limits.period, Limit.HARD
    return None


def beats(limits: IdleLimits, moved: Movement, now: float) -> int:
    """Whole heartbeats since the last movement."""
    return max(0, int((now - moved.last_move) / limits.period))
