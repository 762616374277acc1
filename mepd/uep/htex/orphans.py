"""Orphans of what this process started, which the kernel gives to it, a subreaper.

They must be waited for: a dead process is alive for Parsl until then.
"""

from __future__ import annotations

from mepd.posix import orphans, process
from mepd.posix.ended import has_ended


class Orphans:
    """Reaps dead children that nobody else waits for.

    Those of other threads are theirs, and what was dead at two looks is nobody's.
    """

    def __init__(self) -> None:
        self._dead: set[int] = set()

    def reap(self, known: set[int]) -> bool:
        """Whether any was reaped; ``known`` are waited for elsewhere."""
        dead = {pid for pid in process.children() if pid not in known and has_ended(pid)}
        ours = dead & self._dead
        for pid in ours:
            orphans.reap(pid)
        self._dead = dead - ours
        return bool(ours)
