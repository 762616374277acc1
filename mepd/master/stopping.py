"""Ending UEPs: a signal, a deadline, then the whole tree."""

from __future__ import annotations

import logging
import signal
from collections.abc import Collection

from mepd.master import decisions
from mepd.master.history import History, Kind
from mepd.master.loop import Loop
from mepd.master.states import Event, next_state
from mepd.master.table import Uep, UepTable
from mepd.model import UepState
from mepd.posix import process

log = logging.getLogger(__name__)


CLOSING_MAX = 30.0
"""How long PAM modules may take to close a session, in seconds, once its UEP has gone."""

BY_HAND = "mepctl kill"
"""Why a user endpoint is stopped that somebody does not want."""

_MOMENT = 1.0


class Stopper:
    """Signals UEPs, never a process that merely has their pid."""

    def __init__(
        self, loop: Loop, table: UepTable, stopwaitsecs: float, history: History | None = None
    ) -> None:
        self._loop = loop
        self._table = table
        self._history = history or History()
        self.stopwaitsecs = stopwaitsecs
        self._overdue: list[tuple[Uep, str]] = []

    def stop(self, uep: Uep, reason: str, signum: int = signal.SIGTERM) -> bool:
        """Ask a UEP to finish; after stopwaitsecs its tree is killed. False if it is gone."""
        if uep.state is not UepState.STOPPING:
            self._set_deadline(uep)
        return self._ask(uep, reason, signum)

    def _set_deadline(self, uep: Uep) -> None:
        timer = self._loop.call_later(self.stopwaitsecs, lambda: self.kill_soon(uep, "deadline"))
        uep.timers.append(timer)

    def _ask(self, uep: Uep, reason: str, signum: int) -> bool:
        uep.stop_reason = uep.stop_reason or reason
        uep.state = next_state(uep.state, Event.STOP)
        log.info(
            "Signaling %s to user endpoint (pid: %d): %s %s",
            _name(signum), uep.process.pid, reason, uep.label, extra=uep.about,
        )  # fmt: skip
        self._history.note_uep(Kind.SIGNALLED, uep, reason=f"{_name(signum)}: {reason}")
        there = process.signal_process(uep.process, signum)
        self.wake(uep)
        return there

    def kill(self, uep: Uep, reason: str) -> None:
        """Kill a UEP, its group and all its descendants now.

        A session process is left to close its session, for which it has ``CLOSING_MAX``.
        """
        self.kill_all([uep], reason)

    def kill_all(self, ueps: Collection[Uep], reason: str) -> None:
        """:meth:`kill` of many, which takes hardly longer than that of one."""
        self._kill([(uep, reason) for uep in ueps])

    def _kill(self, targets: Collection[tuple[Uep, str]]) -> None:
        """Each with its reason."""
        process.kill_all([uep.process for uep, _ in targets])
        for uep, reason in targets:
            self._killed(uep, reason)

    def kill_soon(self, uep: Uep, reason: str) -> None:
        """:meth:`kill` in the next turn, together with all others whose time is up now."""
        if not self._overdue:
            self._loop.call_later(0.0, self._kill_overdue)
        self._overdue.append((uep, reason))

    def _kill_overdue(self) -> None:
        found, self._overdue = self._overdue, []
        self._kill([(uep, reason) for uep, reason in found if uep.state is not UepState.GONE])

    def _killed(self, uep: Uep, reason: str) -> None:
        uep.stop_reason = uep.stop_reason or reason
        uep.state = next_state(uep.state, Event.STOP)
        log.warning(
            "Forcibly killing user endpoint (pid: %d): %s %s",
            uep.process.pid, reason, uep.label, extra=uep.about,
        )  # fmt: skip
        self._history.note_uep(Kind.SIGNALLED, uep, reason=f"SIGKILL: {reason}")
        self.wake(uep)

    def give_up(self, uep: Uep, reason: str) -> None:
        """Kill one with PAM that does not start, after a moment to close its session."""
        self.stop(uep, reason)
        uep.timers.append(self._loop.call_later(_MOMENT, lambda: self.kill_soon(uep, reason)))

    def wake(self, uep: Uep) -> None:
        """Have a session process end with its UEP: one that was stopped goes on, and modules
        that do not return from closing the session are bounded."""
        if uep.lifeline is not None:
            process.signal_process(uep.child, signal.SIGCONT)
            uep.timers.append(self._loop.call_later(CLOSING_MAX, lambda: self._end_session(uep)))

    def _end_session(self, uep: Uep) -> None:
        if process.identify(uep.process.pid) != uep.process:
            log.error(
                "PAM did not close the session within %g s: killing its process (pid: %d) %s",
                CLOSING_MAX, uep.child.pid, uep.label, extra=uep.about,
            )  # fmt: skip
            process.kill_tree(uep.child)

    def signal(self, uep: Uep, signum: int, reason: str) -> bool:
        """Send any signal, without any meaning to mepd. False if the UEP is gone."""
        self._history.note_uep(Kind.SIGNALLED, uep, reason=f"{_name(signum)}: {reason}")
        log.info(
            "Signaling %s to user endpoint (pid: %d): %s %s",
            _name(signum), uep.process.pid, reason, uep.label, extra=uep.about,
        )  # fmt: skip
        return process.signal_process(uep.process, signum)

    def stop_all(self, reason: str, signum: int) -> None:
        """:meth:`stop` for all; who was asked before has stopwaitsecs from now on, no more."""
        for uep in list(self._table):
            self._set_deadline(uep)
            try:
                self._ask(uep, reason, signum)
            except Exception:
                log.exception("a user endpoint was not told to stop", extra=uep.about)

    def reap_idle(self) -> None:
        """The backstop of the UEPs' own idle clocks; also finds those that hang."""
        for uep, reason in self.reapable(decisions.IDLE_GRACE_PERIODS):
            self.reap(uep, reason)

    def reapable(self, grace: float, idle: float | None = None) -> list[tuple[Uep, str]]:
        """The UEPs to reap now, each with the reason.

        ``grace`` is in heartbeats; with ``idle`` also those that have had nothing to do for
        so many seconds.
        """
        now = self._loop.clock()
        found = []
        for uep in self._table:
            if uep.state is UepState.RUNNING and uep.activity is not None:
                silent = now - uep.reported
                reason = decisions.reap_reason(uep.activity, silent, grace)
                if reason is None and idle is not None:
                    reason = decisions.idle_reason(uep.activity, silent, idle)
                if reason:
                    found.append((uep, reason))
        return found

    def reap(self, uep: Uep, reason: str) -> None:
        log.warning("Reaping user endpoint: %s %s", reason, uep.label, extra=uep.about)
        self._history.note_uep(Kind.REAPED, uep, reason=reason)
        self.stop(uep, reason)


def _name(signum: int) -> str:
    return signal.Signals(signum).name
