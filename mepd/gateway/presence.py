"""Who is online: endpoints of both kinds, by their heartbeats.

An endpoint is online until three of its own heartbeat periods have passed without a
report, or until it says goodbye. Deadlines are timers of the loop, nothing is polled.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field

MISSED = 3
PERIOD_MIN = 0.5
PERIOD_MAX = 3600.0


def period_of(state: dict[str, object]) -> float | None:
    """The heartbeat period of a status report; None for a goodbye."""
    value = state.get("heartbeat_period", 30.0)
    if state.get("active") is False:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return 30.0
    return min(PERIOD_MAX, max(PERIOD_MIN, float(value))) if value > 0 else None


@dataclass
class _Entry:
    until: float  # loop time
    period: float
    timer: asyncio.TimerHandle
    since: float  # loop time of the first report


@dataclass
class Presence:
    """``on_gone`` is called with the id of one that fell silent or said goodbye."""

    on_gone: Callable[[str], None] = lambda _ident: None
    on_online: Callable[[str], None] = lambda _ident: None
    _entries: dict[str, _Entry] = field(default_factory=dict)
    _changed: dict[str, tuple[float, float]] = field(default_factory=dict)

    def online(self, ident: str) -> bool:
        return ident in self._entries

    def count(self) -> int:
        return len(self._entries)

    def online_for(self, ident: str) -> float:
        """Seconds since it came online; 0 for one that is not."""
        entry = self._entries.get(ident)
        return asyncio.get_running_loop().time() - entry.since if entry is not None else 0.0

    def report(self, ident: str, period: float, wait: float | None = None) -> None:
        """A sign of life; the next one is due within ``wait`` (default three periods)."""
        loop = asyncio.get_running_loop()
        wait = MISSED * period if wait is None else wait
        old = self._entries.get(ident)
        if old is not None:
            old.timer.cancel()
        until = loop.time() + wait
        timer = loop.call_at(until, self.goodbye, ident)
        since = loop.time() if old is None else old.since
        self._entries[ident] = _Entry(until, period, timer, since)
        self._changed[ident] = (time.time() + wait, period)
        if old is None:
            self.on_online(ident)

    def goodbye(self, ident: str) -> None:
        entry = self._entries.pop(ident, None)
        if entry is None:
            return
        entry.timer.cancel()
        self._changed[ident] = (0.0, entry.period)
        self.on_gone(ident)

    def restart_clocks(self) -> None:
        """The broker was away, or is back: silence until now says nothing."""
        for ident, entry in list(self._entries.items()):
            self.report(ident, entry.period)

    def hold(self) -> None:
        """The broker is away: nobody can be heard, so nobody is missed."""
        for entry in self._entries.values():
            entry.timer.cancel()

    def take_changes(self) -> dict[str, tuple[float, float]]:
        """What has changed since the last call, for the store: id -> (until, period)."""
        changes, self._changed = self._changed, {}
        return changes

    def put_back(self, changes: dict[str, tuple[float, float]]) -> None:
        """They are not stored: they are for the next call, but for what has changed since."""
        self._changed = {**changes, **self._changed}
