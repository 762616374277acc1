"""The thread that adds and cancels blocks, by Parsl's own strategies."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import Any

from parsl.jobs.error_handlers import simple_error_handler, windowed_error_handler
from parsl.jobs.states import TERMINAL_STATES
from parsl.jobs.strategy import Strategy

log = logging.getLogger(__name__)


class Scaling(threading.Thread):
    """Does what Parsl's JobStatusPoller does, and at once when asked to.

    ``polled(job_ids)`` is called after each turn with the jobs that have not ended;
    ``serving()`` says whether any worker is connected.
    """

    def __init__(
        self,
        executor: Any,
        poller: dict[str, Any],
        polled: Callable[[list[str]], None],
        serving: Callable[[], bool],
    ) -> None:
        super().__init__(name="scaling", daemon=True)
        self._executor = executor
        self._polled = polled
        self._serving = serving
        self._period = poller["strategy_period"]
        self._strategy = Strategy(
            strategy=poller["strategy"], max_idletime=poller["max_idletime"]
        )
        self._strategy.add_executors([executor])
        self._turn = threading.Event()
        self._lock = threading.Lock()
        self._ended = False

    def hurry(self) -> None:
        """Take the next turn now."""
        self._turn.set()

    def look_now(self) -> None:
        """A block may have ended: take the next turn now, and ask the provider in it."""
        self._executor._last_poll_time = 0.0
        self.hurry()

    def run(self) -> None:
        while True:
            with self._lock:
                if self._ended:
                    return
                try:
                    self._step()
                except Exception:
                    log.exception("blocks cannot be looked after")
            self._turn.wait(self._period)
            self._turn.clear()

    def _step(self) -> None:
        executor = self._executor
        executor.poll_facade()
        executor.handle_errors(executor.status_facade)
        if executor.block_error_handler is simple_error_handler and not self._serving():
            # that one gives up only if no block ever served; this one, after three in a row
            windowed_error_handler(executor, executor.status_facade)
        self._strategy.strategize([executor])
        self._polled(self.jobs())

    def jobs(self) -> list[str]:
        """The ids of the jobs that have not ended, as far as is known."""
        status = self._executor.status_facade
        return [
            job_id
            for block, job_id in list(self._executor.blocks_to_job_id.items())
            if block not in status or status[block].state not in TERMINAL_STATES
        ]

    def end(self, patience: float) -> list[str]:
        """Take no further turn; the jobs that are left.

        A block that is being launched is seen to its end, for ``patience`` seconds.
        """
        self._ended = True
        if self._lock.acquire(timeout=patience):
            self._lock.release()
        return self.jobs()
