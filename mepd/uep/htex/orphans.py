"""Orphans of what this process started, which the kernel gives to it, a subreaper.

They must be waited for: a dead process is alive for Parsl until then.
"""

from __future__ import annotations

import contextlib
import os

from mepd.posix import guard, process

_LOOK = os.WEXITED | os.WNOHANG | os.WNOWAIT


class Orphans:
    """Reaps dead children that nobody else waits for.

    Those of other threads are theirs, and what was dead at two looks is nobody's.
    """

    def __init__(self) -> None:
        self._dead: set[int] = set()

    def reap(self, known: set[int]) -> bool:
        """Whether any was reaped; ``known`` are waited for elsewhere."""
        dead = {pid for pid in process.children() if pid not in known and _is_dead(pid)}
        ours = dead & self._dead
        for pid in ours:
            guard.reap_orphan(pid)
        self._dead = dead - ours
        return bool(ours)


def _is_dead(pid: int) -> bool:
    with contextlib.suppress(ChildProcessError):
        return os.waitid(os.P_PID, pid, _LOOK) is not None
    return False
