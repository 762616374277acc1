"""The master as a service: ready, alive, reloading, stopping, and its state in a line."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from mepd.master.endpoints import Endpoint
from mepd.master.loop import Loop
from mepd.master.table import UepTable
from mepd.posix.notify import Notifier

READY_AFTER_AT_MOST = 45.0
"""Seconds until mepd calls itself ready, be its endpoints registered or not."""
_RELOAD_AT_MOST = 20.0
_LOOK = 0.1
_STATUS_EVERY = 1.0


class Service:
    """Keeps the service manager informed. Without one, nothing happens.

    The watchdog is fed by the loop itself: a loop that hangs starves it.
    """

    def __init__(
        self,
        loop: Loop,
        notifier: Notifier,
        table: UepTable,
        endpoints: Callable[[], Iterable[Endpoint]],
        is_rereading: Callable[[], bool],
        trouble: Callable[[], str] = str,
    ) -> None:
        self._loop = loop
        self._notifier = notifier
        self._table = table
        self._endpoints = endpoints
        self._is_rereading = is_rereading
        self._trouble = trouble
        self._status = ""
        self._ready = False
        self._stopping = False

    def begin(self) -> None:
        """To be called when the loop is about to run."""
        if not self._notifier.is_managed:
            return
        if self._notifier.watchdog:
            self._loop.call_every(self._notifier.watchdog / 3, self._alive)
            self._alive()
        self._show_status()
        self._loop.call_every(_STATUS_EVERY, self._show_status)
        self._wait_until_ready(self._loop.clock() + READY_AFTER_AT_MOST)

    def reloading(self) -> None:
        """The configuration is being read again."""
        if self._notifier.is_managed and self._ready and not self._stopping:
            self._notifier.reloading()
            deadline = self._loop.clock() + _RELOAD_AT_MOST
            self._loop.call_later(0.0, lambda: self._wait_until_reread(deadline))

    def stopping(self) -> None:
        self._stopping = True
        self._notifier.tell(STOPPING=1)

    def _alive(self) -> None:
        self._notifier.tell(WATCHDOG=1)

    def _wait_until_ready(self, deadline: float) -> None:
        """Ready is who takes requests: all endpoints are registered and online.

        A service that is down for long must not have mepd killed for being slow.
        """
        if self._stopping:
            return
        missing = any(not e.online for e in self._endpoints())
        if missing and self._loop.clock() < deadline:
            self._loop.call_later(_LOOK, lambda: self._wait_until_ready(deadline))
            return
        self._ready = True
        self._show_status()
        self._notifier.tell(READY=1)

    def _wait_until_reread(self, deadline: float) -> None:
        if self._is_rereading() and self._loop.clock() < deadline and not self._stopping:
            self._loop.call_later(_LOOK, lambda: self._wait_until_reread(deadline))
        else:
            self._notifier.tell(READY=1)

    def _show_status(self) -> None:
        text = status_line(list(self._endpoints()), [u.uid for u in self._table])
        text += f"; {self._trouble()}" if self._trouble() else ""
        if text != self._status:
            self._status = text
            self._notifier.tell(STATUS=text)


def status_line(endpoints: list[Endpoint], uids: list[int]) -> str:
    """``1 of 2 endpoints online (offline: gpu); 3 user endpoints of 2 users``"""
    offline = [e.name for e in endpoints if not e.online]
    line = f"{len(endpoints) - len(offline)} of {_count(len(endpoints), 'endpoint')} online"
    if offline:
        line += f" (offline: {', '.join(offline[:5])}{', ...' if len(offline) > 5 else ''})"
    users = len({uid for uid in uids if uid >= 0})
    return f"{line}; {_count(len(uids), 'user endpoint')} of {_count(users, 'user')}"


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"
