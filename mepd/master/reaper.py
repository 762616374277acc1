"""The one place that waits for children."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
from collections.abc import Callable, Collection

from mepd.posix import descriptors, orphans, process

log = logging.getLogger(__name__)

_END_MAX = 0.3
_TURN_MAX = 500
"""Children reaped in one turn of the loop; who forks without end must not hold it."""


class Reaper:
    """Collects the dead by pid and tells whoever watches each of them.

    The master is a subreaper: orphans of its descendants become its children. They are
    nobody's, so :meth:`kill_strays` ends them, but not those of accounts that ``spares``
    names: their user endpoint may be alive. ``on_orphan`` is called when one was reaped,
    whose own children are orphans by then.
    """

    def __init__(self) -> None:
        self.spares: Callable[[int], bool] = lambda _uid: False
        self.on_orphan: Callable[[], None] = lambda: None
        self._watchers: dict[int, Callable[[int], None]] = {}
        self._unstoppable: dict[int, bool] = {}
        self._before = set(process.children())

    def watch(
        self, pid: int, callback: Callable[[int], None], unstoppable: bool = False
    ) -> None:
        """Call ``callback`` with the wait status (wait(2)) when ``pid`` has ended.

        One that is ``unstoppable`` is sent SIGCONT whenever it is stopped: nothing would
        tell that it does no more.
        """
        self._watchers[pid] = callback
        if unstoppable:
            self._unstoppable[pid] = False

    def collect(self) -> None:
        """Reap what has ended. Each pid is looked at before it is waited for."""
        self._continue_stopped()
        for _ in range(_TURN_MAX):
            try:
                info = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            except ChildProcessError:
                return
            if info is None:
                return
            _, status = os.waitpid(info.si_pid, 0)
            self._ended(info.si_pid, status)
        os.kill(os.getpid(), signal.SIGCHLD)  # the rest in the next turn

    def _continue_stopped(self) -> None:
        for pid, known in self._unstoppable.items():
            with contextlib.suppress(ChildProcessError):
                if os.waitid(os.P_PID, pid, os.WSTOPPED | os.WNOHANG) is None:
                    continue
                os.kill(pid, signal.SIGCONT)
                self._unstoppable[pid] = True
                if not known:
                    log.warning("pid %d was stopped: it is to go on, now and always", pid)

    def _ended(self, pid: int, status: int) -> None:
        self._unstoppable.pop(pid, None)
        callback = self._watchers.pop(pid, None)
        if callback is None:
            self._before.discard(pid)
            self.on_orphan()
            return
        try:
            callback(status)
        except Exception:
            log.exception("the end of pid %d was not handled", pid)

    def strays(self, *sessions: int) -> list[int]:
        """Living children of this process that nobody watches, and that are not spared.

        None of ``sessions`` is spared: the UEPs that began them have ended.
        """
        known = self._before.union(self._watchers)
        found = orphans.living(known, self.on_orphan)
        return [pid for pid in found if not self._spared(pid, sessions)]

    def _spared(self, pid: int, sessions: Collection[int]) -> bool:
        try:
            if sessions and os.getsid(pid) in sessions:
                return False
            uid = process.real_uid(pid)
            return uid is None or self.spares(uid)
        except ProcessLookupError:
            return True  # gone

    @descriptors.spare()
    def kill_strays(self, *sessions: int) -> int:
        """SIGKILL the strays and what they have forked; how many there were."""
        found = orphans.freeze(lambda: self.strays(*sessions))
        process.kill_each(found)
        return len(found)

    def end_strays(self) -> None:
        """Kill and reap whoever is nobody's at the end of mepd, when no loop runs any more."""
        self.spares = lambda _uid: False
        orphans.end_all(self.strays, _END_MAX)
