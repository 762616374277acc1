"""The end of mepd, in order: UEPs, workers, programs. Always within ten seconds."""

from __future__ import annotations

import logging
import signal
from collections.abc import Callable

from mepd.master.ends import Ends
from mepd.master.loop import Loop
from mepd.master.programs import Program, start_order
from mepd.master.stopping import Stopper
from mepd.master.table import UepTable
from mepd.master.workers import Worker
from mepd.model import ProgramState
from mepd.posix import process

log = logging.getLogger(__name__)

_UEPS_MAX = 5.0
_KILLED_MAX = 0.7
_WORKERS_MAX = 1.2
_PROGRAMS_MAX = 2.8
_TICK = 0.02
_ALL_MAX = 9.8


class Shutdown:
    """Runs once. UEPs get the signal that mepd got and at most stopwaitsecs (never more
    than 5 s) to finish; the broker and the gateway stay until they have gone."""

    def __init__(
        self,
        loop: Loop,
        table: UepTable,
        stopper: Stopper,
        ends: Ends,
        workers: list[Worker],
        programs: list[Program],
        done: Callable[[], None],
        ueps_gone: Callable[[], None] = lambda: None,
        overdue: Callable[[], None] = lambda: None,
    ) -> None:
        """``overdue`` is called once instead of ``done`` if the time is up: an order that
        met a fault, or too many that do not end, must not keep mepd from ending."""
        self._loop = loop
        self._table = table
        self._stopper = stopper
        self._ends = ends
        self._workers = workers
        self._programs = programs
        self._done = done
        self._when_ueps_gone = ueps_gone
        self._overdue = overdue
        self.signum = 0

    def begin(self, signum: int) -> None:
        """Start the shutdown; a second call changes nothing."""
        if self.signum:
            return
        self.signum = signum
        self._loop.call_later(_ALL_MAX, self._overdue)
        name = signal.Signals(signum).name
        log.info("%s: shutting down %d user endpoints", name, len(self._table))
        self._stopper.stopwaitsecs = min(self._stopper.stopwaitsecs, _UEPS_MAX)
        self._stopper.stop_all("mepd is shutting down", signum)
        patience = self._stopper.stopwaitsecs + _KILLED_MAX
        self._wait(lambda: not len(self._table), patience, self._ueps_gone)

    def _wait(self, over: Callable[[], bool], patience: float, then: Callable[[], None]) -> None:
        deadline = self._loop.clock() + patience

        def look() -> None:
            if over() or self._loop.clock() >= deadline:
                then()
            else:
                self._loop.call_later(_TICK, look)

        look()

    def _ueps_gone(self) -> None:
        for uep in self._table:
            log.error("killing what is left of a user endpoint %s", uep.label)
        process.kill_all([uep.child for uep in self._table])
        self._when_ueps_gone()
        for worker in self._workers:
            worker.stop()
        self._wait(
            lambda: all(w.state is ProgramState.STOPPED for w in self._workers),
            _WORKERS_MAX,
            self._workers_gone,
        )

    def _workers_gone(self) -> None:
        for worker in self._workers:
            if worker.process is not None:
                process.kill_tree(worker.process)
        self._stop_programs(list(reversed(start_order(self._programs))), _PROGRAMS_MAX)

    def _stop_programs(self, left: list[Program], budget: float) -> None:
        """One after the other, the last started first, as supervisord."""
        if not left:
            self._done()
            return
        program, rest = left[0], left[1:]
        begun = self._loop.clock()
        share = max(0.3, budget - 0.3 * len(rest))
        program.stop(min(share, program.section.stopwaitsecs))

        def gone() -> None:
            self._stop_programs(rest, budget - (self._loop.clock() - begun))

        self._wait(lambda: program.process is None, share + _KILLED_MAX, gone)
