"""Syncing the journal without waiting for the disk: one thread, one sync for all that came.

A disk that is shared takes milliseconds to sync, in which this program could run tasks.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

from mepd.uep.amqp import IOLoop

GATHER = 0.005
"""Seconds between two syncs."""
STOP_TIME = 0.5
"""Seconds to wait for the thread's end."""


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
        self._over = False
        self._thread = threading.Thread(target=self._run, name="syncer", daemon=True)
        self._thread.start()

    def request(self, then: Callable[[], None] | None = None) -> None:
        """Have all that is written by now synced; ``then`` is called after, in the loop."""
        if then is not None:
            self._then.append(then)
        self._asked.set()

    def stop(self) -> None:
        """End the thread, if no disk holds it. One that the interpreter's end has to stop is
        an abort where there is no descriptor to load libgcc with, see pthread_exit(3)."""
        self._over = True
        self._asked.set()
        self._thread.join(STOP_TIME)

    def _run(self) -> None:
        pause = threading.Event()  # never set
        while True:
            self._asked.wait()
            self._asked.clear()
            if self._over:
                return
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
