"""The one place that waits for children."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable

import psutil

from mepd.posix.process import ProcessId, identify

log = logging.getLogger(__name__)


class Reaper:
    """Collects the dead by pid and tells whoever watches each of them.

    The master is a subreaper: orphans of its dead descendants become its children. They
    are nobody's, so :meth:`strays` finds them to be killed.
    """

    def __init__(self) -> None:
        self._watchers: dict[int, Callable[[int], None]] = {}
        self._before = frozenset(c.pid for c in psutil.Process().children())

    def watch(self, pid: int, callback: Callable[[int], None]) -> None:
        """Call ``callback`` with the wait status (wait(2)) when ``pid`` has ended."""
        self._watchers[pid] = callback

    def collect(self) -> None:
        """Reap everything that has ended. Each pid is looked at before it is waited for."""
        while True:
            try:
                info = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            except ChildProcessError:
                return
            if info is None:
                return
            _, status = os.waitpid(info.si_pid, 0)
            callback = self._watchers.pop(info.si_pid, None)
            if callback is None:
                log.debug("reaped an orphan (pid: %d)", info.si_pid)
                continue
            try:
                callback(status)
            except Exception:
                log.exception("the end of pid %d was not handled", info.si_pid)

    def strays(self) -> list[ProcessId]:
        """Living children of this process that nobody watches."""
        found = []
        for child in psutil.Process().children():
            if child.pid not in self._watchers and child.pid not in self._before:
                identity = identify(child.pid)
                if identity is not None:
                    found.append(identity)
        return found
