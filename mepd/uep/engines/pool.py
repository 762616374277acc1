"""ThreadPoolEngine and ProcessPoolEngine: worker processes of our own.

The first is one process with N threads, the second up to N processes with one thread.
A worker gets a task when it can run it at once, so that what was handed over has begun
and what waits has not.
"""

from __future__ import annotations

import logging
import os
from collections import deque
from typing import Any

from mepd.uep.amqp import IOLoop

from mepd.uep import failures
from mepd.config.uepconfig import THREADS, EngineConfig
from mepd.uep.engines import frames, process
from mepd.uep.engines.base import EngineContext, EngineEvents, EngineTask
from mepd.uep.engines.process import WorkerProcess

log = logging.getLogger(__name__)

START_ATTEMPTS = 3
"""Workers that die before they are ready, in a row, until waiting tasks are failed."""
BACKOFF_MAX = 30.0
_BACKOFF_STEPS = 6
"""After so many the delay grows no more; two to the power of hours of attempts is no float."""
WARM_UP = 2.0
"""Seconds until the first worker is started without a task: others may be starting."""


def restart_delay(failed: int) -> float:
    """Seconds to wait after ``failed`` workers in a row died before they were ready."""
    return 0.0 if not failed else min(BACKOFF_MAX, 0.5 * 2.0 ** min(failed, _BACKOFF_STEPS))


def workers_wanted(waiting: int, starting: int, alive: int, most: int) -> int:
    """How many workers to start, of ``most``: one at least is alive, and more are started
    for waiting tasks that those ``starting`` (their threads) will not take."""
    return max(0 if alive else 1, min(waiting - starting, most - alive))


class PoolEngine:
    """See mepd.uep.engines.base.Engine."""

    def __init__(
        self, config: EngineConfig, context: EngineContext, events: EngineEvents, loop: IOLoop
    ) -> None:
        self._config = config
        self._context = context
        self._events = events
        self._loop = loop
        self._threads = config.max_workers if config.type == THREADS else 1
        self._most = 1 if config.type == THREADS else config.max_workers
        self._workers: list[WorkerProcess] = []
        self._waiting: deque[EngineTask] = deque()
        self._retried: dict[str, int] = {}
        self._failed_starts = 0
        self._retry_timer: object | None = None
        self._stopped = False
        self._due = False
        self._details: dict[str, Any] = failures.base_details(context.endpoint_id)

    @property
    def capacity(self) -> int:
        return self._config.max_workers

    @property
    def running(self) -> int:
        return sum(len(w.tasks) for w in self._workers)

    def start(self) -> None:
        self._loop.call_later(WARM_UP, self._dispatch)

    def refusal(self, resources: dict[str, Any]) -> str | None:
        if not resources:
            return None
        return (
            f"resource_specification is not supported on {self._config.type}."
            "  For MPI apps, use GlobusMPIEngine."
        )

    def submit(self, task: EngineTask) -> None:
        self._waiting.append(task)
        self._dispatch_soon()

    def _setup(self) -> dict[str, Any]:
        return {
            "threads": self._threads,
            "endpoint_id": self._context.endpoint_id,
            "folder": os.path.join(self._context.folder, self._config.working_dir),
            "sandbox": self._config.sandbox,
            "allowed_serializers": list(self._config.allowed_serializers),
            "title": self._context.title,
        }

    def _start_worker(self) -> None:
        # those that start beside each other share the processors
        patience = process.START_TIME + len(self._workers)
        worker = WorkerProcess(self._loop, self._setup(), self._on_frame, patience=patience)
        log.debug("worker %d started", worker.pid)
        self._workers.append(worker)

    def _on_frame(self, worker: WorkerProcess, frame: frames.Frame) -> None:
        if frame.kind == frames.RESULT:
            task = worker.tasks.pop(str(frame.header.get("id")), None)
            if task is not None:
                self._retried.pop(task.task_id, None)
                self._events.finished(task.task_id, frame.body)
        elif frame.kind == frames.READY and not worker.ready:
            worker.started()
            self._failed_starts = 0
            details = frame.header.get("details")
            if isinstance(details, dict):
                self._details = details
        self._dispatch_soon()

    def _dispatch_soon(self) -> None:
        """Once for all that came in this turn of the loop: one write of the journal, too."""
        if not self._due:
            self._due = True
            self._loop.call_later(0, self._dispatch)

    def _dispatch(self) -> None:
        """Hand waiting tasks to workers with a free thread; start workers for the rest."""
        self._due = False
        if self._stopped:
            return
        for worker in self._workers:
            batch = [self._waiting.popleft() for _ in range(min(worker.free, len(self._waiting)))]
            if batch:
                self._events.begun(t.task_id for t in batch)
                worker.hand(*batch)
        if self._retry_timer is None and (self._waiting or not self._workers):
            self._grow()

    def _grow(self) -> None:
        """Start workers for the waiting tasks; one is always kept, for the next task."""
        starting = sum(not w.ready for w in self._workers) * self._threads
        alive = len(self._workers)
        wanted = workers_wanted(len(self._waiting), starting, alive, self._most)
        for _ in range(wanted):
            try:
                self._start_worker()
            except OSError as e:
                log.error("cannot start a worker: %s", e)
                self._start_failed(f"WorkerLost: cannot start a worker process: {e.strerror}")
                return

    def _start_failed(self, text: str) -> None:
        """Try again later; after some attempts, what waits is answered with ``text``, unless
        there is another worker, which will run it."""
        self._failed_starts += 1
        if self._failed_starts >= START_ATTEMPTS and not any(w.ready for w in self._workers):
            while self._waiting:
                self._lose(self._waiting.popleft(), text)
        if self._retry_timer is None:
            delay = restart_delay(self._failed_starts)
            self._retry_timer = self._loop.call_later(delay, self._retry)

    def _retry(self) -> None:
        self._retry_timer = None
        self._dispatch()

    def _lose(self, task: EngineTask, text: str) -> None:
        self._retried.pop(task.task_id, None)
        packed = failures.error_result(
            task.task_id, failures.WORKER_LOST, text, self._details, task.submitted
        )
        self._events.finished(task.task_id, packed)

    def reap(self) -> None:
        for worker in list(self._workers):
            status = worker.poll()
            if status is not None:
                self._workers.remove(worker)
                self._on_end(worker, status)

    def _on_end(self, worker: WorkerProcess, status: int) -> None:
        if self._stopped:
            return
        how = worker.how(status)
        log.warning("worker %d %s", worker.pid, how)
        for task in worker.tasks.values():
            attempts = self._retried.get(task.task_id, 0)
            if attempts < self._config.retries:
                self._retried[task.task_id] = attempts + 1
                self._waiting.append(task)
            else:
                self._lose(task, failures.lost_worker(how))
        if not worker.ready:
            self._start_failed(f"WorkerLost: the worker process {how} while starting")
        self._dispatch()

    def drop_waiting(self) -> list[str]:
        ids = [t.task_id for t in self._waiting]
        self._waiting.clear()
        return ids

    def stop(self) -> list[str]:
        self._stopped = True
        for worker in self._workers:
            worker.kill()
        running = [i for w in self._workers for i in w.tasks]
        for worker in self._workers:
            worker.end()
        self._workers.clear()
        return running

    def close(self) -> None:
        pass

    def status(self) -> dict[str, Any]:
        return {
            "engine_type": self._config.type,
            "total_workers": self.capacity,
            "max_workers_per_node": self.capacity,
            "total_cores": os.cpu_count() or 1,
            "outstanding_tasks": self.running + len(self._waiting),
            "pending_tasks": len(self._waiting),
            "scaling_enabled": False,
            "nodes_per_block": 1,
            "min_blocks": 1,
            "max_blocks": 1,
        }
