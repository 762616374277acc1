"""Decisions of the master: caps, idleness, backoff. Pure."""

from __future__ import annotations

from mepd.model import Activity

SILENT_PERIODS = 3
IDLE_GRACE_PERIODS = 2
BACKOFF_MAX = 30.0
REFUSED_AGAIN = 0.5
"""Seconds between two tries of a fork that the system refuses. That is no failure of what was
to start, which is to serve again as soon as there is room."""
STABLE_AFTER = 2.0
"""Seconds for which a worker must have been ready for its next end not to count as a loop."""


def total_refusal(running: int, max_ueps: int) -> str | None:
    """Why no further UEP may start at all; 0 means no cap."""
    if max_ueps and running >= max_ueps:
        return f"max_ueps ({max_ueps}) is reached"
    return None


def user_refusal(running_of_user: int, user: str, *caps: int) -> str | None:
    """Why this user may have no further UEP; the smallest cap that is not 0 counts."""
    limits = [cap for cap in caps if cap]
    if limits and running_of_user >= min(limits):
        return f"max_ueps_per_user ({min(limits)}) is reached for {user}"
    return None


def reap_reason(
    activity: Activity, silent_for: float, grace: float = IDLE_GRACE_PERIODS
) -> str | None:
    """Why a running UEP must be stopped by the master, the backstop of its own clocks.

    ``silent_for`` is seconds since its last report; ``activity.last_move`` was true then.
    ``grace`` is in heartbeats beyond its limits.
    """
    period = activity.heartbeat_period
    if silent_for > SILENT_PERIODS * period + 1:
        return f"hung: silent for {silent_for:.0f} s"
    idle = activity.last_move + silent_for
    soft, hard = activity.soft, activity.hard
    if soft and activity.done and not activity.outstanding:
        if idle > (soft + grace) * period:
            return f"idle for {idle:.0f} s (idle_heartbeats_soft)"
    if soft and hard and idle > (hard + grace) * period:
        return f"idle for {idle:.0f} s (idle_heartbeats_hard)"
    return None


def idle_reason(activity: Activity, silent_for: float, limit: float) -> str | None:
    """Why a UEP counts as idle to an administrator who says ``limit`` seconds."""
    idle = activity.last_move + silent_for
    if activity.outstanding or idle < limit:
        return None
    return f"idle for {idle:.0f} s"


def backoff(failures: int) -> float:
    """Seconds to wait before the next try after ``failures`` failures in a row."""
    return min(BACKOFF_MAX, 0.1 * 2.0 ** min(failures, 20))
