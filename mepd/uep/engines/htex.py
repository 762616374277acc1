"""GlobusComputeEngine and GlobusMPIEngine: Parsl's executor, in a process of its own.

The host process (mepd.uep.htex) has providers, blocks and the interchange. It gets a task
when a connected worker can run it at once, so that what was handed over has begun and
what waits has not; of the others it knows the number, which decides on new blocks.
"""

from __future__ import annotations

import heapq
import itertools
import json
import logging
import math
import os
from typing import Any

from mepd.config import parslspec
from mepd.config.uepconfig import EngineConfig
from mepd.posix import orphans, process, syscalls
from mepd.uep import failures
from mepd.uep.amqp import IOLoop
from mepd.uep.engines import frames, resources
from mepd.uep.engines.base import EngineContext, EngineEvents, EngineTask
from mepd.uep.engines.pool import START_ATTEMPTS, restart_delay
from mepd.uep.engines.process import WorkerProcess
from mepd.uep.htex.state import fixed_status

log = logging.getLogger(__name__)

START_PATIENCE = 300.0
"""Seconds for the host to have Parsl's interchange, for which Parsl itself waits 120."""
END_PATIENCE = 8.0
"""Seconds for the host to cancel its blocks: under mepd's own patience with a UEP."""
TOTALS = ("managers", "active_managers", "total_workers", "idle_workers")


class HtexEngine:
    """See mepd.uep.engines.base.Engine."""

    def __init__(
        self, config: EngineConfig, context: EngineContext, events: EngineEvents, loop: IOLoop
    ) -> None:
        assert config.parsl is not None
        self._config = config
        self._spec = config.parsl
        self._context = context
        self._events = events
        self._loop = loop
        self._fixed = fixed_status(self._spec)
        self._host: WorkerProcess | None = None
        self._served = False
        self._why, self._hopeless = "", False
        self._waiting: list[tuple[float, int, EngineTask]] = []
        self._order = itertools.count()
        self._retried: dict[str, int] = {}
        self._told_waiting = 0
        self._total = 0
        self._state: dict[str, Any] = {}
        self._failed_starts = 0
        self._retry_timer: object | None = None
        self._stopped = False
        self._others: frozenset[int] = frozenset()

    @property
    def capacity(self) -> int:
        return self._config.max_workers

    @property
    def running(self) -> int:
        return len(self._host.tasks) if self._host is not None else 0

    def start(self) -> None:
        self._others = frozenset(process.children())
        syscalls.set_subreaper()  # what a host that is killed leaves comes to us
        self._start_host()

    def _setup(self) -> dict[str, Any]:
        base = self._context.title.removesuffix("worker")
        folder = str(self._context.folder)
        return {
            "threads": 0,
            "title": f"{base}parsl",
            "debug": logging.getLogger().isEnabledFor(logging.DEBUG),
            "folder": folder,
            "workers": {
                "threads": 1,
                "endpoint_id": self._context.endpoint_id,
                "folder": os.path.join(folder, self._config.working_dir),
                "sandbox": self._config.sandbox,
                "allowed_serializers": list(self._config.allowed_serializers),
                "title": self._context.title,
                "pool_title": f"{base}pool",
            },
        }

    def _start_host(self) -> None:
        self._served = False
        self._why, self._hopeless = "", False
        self._told_waiting = 0
        self._state = {}
        body = parslspec.dump(self._spec)
        try:
            self._host = WorkerProcess(
                self._loop, self._setup(), self._on_frame, "mepd.uep.htex.host", body,
                START_PATIENCE,
            )  # fmt: skip
        except OSError as e:
            log.error("cannot start the host of Parsl: %s", e)
            self._host_failed(f"WorkerLost: cannot start the host of Parsl: {e.strerror}")
            self._dispatch()

    # --- tasks ------------------------------------------------------------------------
    def refusal(self, specification: dict[str, Any]) -> str | None:
        if self._spec.mpi:
            return resources.refuse_mpi(specification, int(self._fixed["nodes_per_block"]))
        return resources.refuse_plain(specification)

    def submit(self, task: EngineTask) -> None:
        self._total += 1
        self._wait(task)
        self._dispatch()

    def _wait(self, task: EngineTask) -> None:
        priority = task.resources.get("priority", math.inf)
        heapq.heappush(self._waiting, (priority, next(self._order), task))

    def _dispatch(self) -> None:
        """Hand waiting tasks to free workers; have a host for the rest."""
        if self._stopped:
            return
        host = self._host
        if host is None:
            if self._waiting and self._retry_timer is None:
                delay = restart_delay(self._failed_starts)
                self._retry_timer = self._loop.call_later(delay, self._retry)
            return
        batch = [
            heapq.heappop(self._waiting)[2] for _ in range(min(host.free, len(self._waiting)))
        ]
        if batch:
            self._events.begun(t.task_id for t in batch)
            for task in batch:
                host.hand(task, resources=self._complete(task))
        if len(self._waiting) != self._told_waiting:
            self._told_waiting = len(self._waiting)
            host.send(frames.Frame(frames.WAITING, {"count": self._told_waiting}))

    def _complete(self, task: EngineTask) -> dict[str, Any]:
        return resources.complete_mpi(task.resources) if self._spec.mpi else {}

    def _retry(self) -> None:
        self._retry_timer = None
        if not self._stopped and self._host is None:
            self._start_host()

    # --- the host's frames ------------------------------------------------------------
    def _on_frame(self, host: WorkerProcess, frame: frames.Frame) -> None:
        if frame.kind in (frames.RESULT, frames.LOST):
            task = host.tasks.pop(str(frame.header.get("id")), None)
            if task is not None:
                self._on_end(task, frame)
        elif frame.kind == frames.STATE:
            self._on_state(host, int(frame.header["slots"]), json.loads(frame.body))
        elif frame.kind == frames.READY:
            host.started()
        elif frame.kind == frames.FAILED:
            self._why = str(frame.header.get("text"))
            self._hopeless = bool(frame.header.get("final"))
        self._dispatch()

    def _on_end(self, task: EngineTask, frame: frames.Frame) -> None:
        if frame.kind == frames.RESULT:
            self._retried.pop(task.task_id, None)
            self._events.finished(task.task_id, frame.body)
        else:
            self._lost(task, str(frame.header.get("text")))

    def _on_state(self, host: WorkerProcess, slots: int, state: dict[str, Any]) -> None:
        if slots:
            self._served = True
            self._failed_starts = 0
        host.slots = slots
        self._state = state

    def _lost(self, task: EngineTask, text: str) -> None:
        """A task whose worker or node was lost: run it again, or say so."""
        attempts = self._retried.get(task.task_id, 0)
        if attempts < self._config.retries and not self._stopped:
            self._retried[task.task_id] = attempts + 1
            log.info("task %s is run again: %s", task.task_id, text)
            self._wait(task)
        else:
            self._fail(task, text)

    def _fail(self, task: EngineTask, text: str) -> None:
        self._retried.pop(task.task_id, None)
        details = failures.base_details(self._context.endpoint_id)
        packed = failures.error_result(
            task.task_id, failures.WORKER_LOST, text, details, task.submitted
        )
        self._events.finished(task.task_id, packed)

    # --- the host's end ---------------------------------------------------------------
    def reap(self) -> None:
        if self._host is None or self._stopped:
            return
        status = self._host.poll()
        if status is not None:
            self._on_host_end(self._host, status)
        else:
            self._reap_orphans()

    def _reap_orphans(self) -> None:
        assert self._host is not None
        orphans.living(self._others | {self._host.pid})

    def _on_host_end(self, host: WorkerProcess, status: int) -> None:
        orphans.end(self._others)  # its interchange, its blocks on this machine
        text = self._why or f"WorkerLost: the host of Parsl {host.how(status)}"
        log.error("%s", text)
        self._host = None
        for task in host.tasks.values():
            self._lost(task, text)
        if not self._served:
            self._host_failed(text)
        self._dispatch()

    def _host_failed(self, text: str) -> None:
        """No worker ever came: what waits is told why, at once if another attempt is vain."""
        self._failed_starts += 1
        if self._hopeless or self._failed_starts >= START_ATTEMPTS:
            while self._waiting:
                self._fail(heapq.heappop(self._waiting)[2], text)

    # --- the end ----------------------------------------------------------------------
    def drop_waiting(self) -> list[str]:
        ids = [task.task_id for _, _, task in self._waiting]
        self._waiting.clear()
        return ids

    def stop(self) -> list[str]:
        self._stopped = True
        if self._host is None:
            return []
        self._host.dismiss()
        running = list(self._host.tasks)
        self._host.tasks.clear()  # results that come now are too late
        return running

    def close(self) -> None:
        if self._host is None:
            return
        if not self._host.wait(END_PATIENCE):
            log.error("the host of Parsl does not end; its blocks are cancelled by the next start")
        self._host.end()
        self._host = None
        orphans.end(self._others)

    def status(self) -> dict[str, Any]:
        tasks = {
            "pending_tasks": len(self._waiting),
            "outstanding_tasks": self.running + len(self._waiting),
            "total_tasks": self._total,
        }
        return {**dict.fromkeys(TOTALS, 0), "node_info": {}, **self._state, **tasks, **self._fixed}
