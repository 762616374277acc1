"""Syncing the journal without waiting for the disk: one thread, one sync for all that came.

A disk that is shared takes milliseconds to sync, in which this program could run tasks.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

from mepd.uep.amqp import IOLoop

GATHER = 0.005
"""Seconds between two syncs."""


class Syncer:
    """``sync`` is called in a thread; what it raises goes to ``failed``, in the loop."""

    def __init__(
        self, loop: IOLoop, sync: Callable[[], None], failed: Callable[[OSError], None]
    ) -> None:
        self._loop = loop
        self._sync = sync
        self._failed = failed
        self._asked = threading.Event()
        self._then: list[Callable[[], None]] = []
        threading.Thread(target=self._run, name="syncer", daemon=True).start()

    def request(self, then: Callable[[], None] | None = None) -> None:
        """Have all that is written by now synced; ``then`` is called after, in the loop."""
        if then is not None:
            self._then.append(then)
        self._asked.set()

    def _run(self) -> None:
        pause = threading.Event()  # never set
        while True:
            self._asked.wait()
            self._asked.clear()
            count = len(self._then)
            error = None
            try:
                self._sync()
            except OSError as e:
                error = e
            if count or error is not None:
                self._loop.add_callback_threadsafe(
                    lambda count=count, error=error: self._synced(count, error)
                )
            pause.wait(GATHER)

    def _synced(self, count: int, error: OSError | None) -> None:
        if error is not None:
            self._failed(error)
        then, self._then[:count] = self._then[:count], []
        for call in then:
            call()
