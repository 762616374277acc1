"""The thread that looks what is connected, and tells the UEP."""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Callable, Iterable
from typing import Any

from mepd.config.parslspec import ParslSpec
from mepd.uep.engines import frames
from mepd.uep.htex.pipe import Pipe

log = logging.getLogger(__name__)

FAST, SLOW = 0.05, 1.0
"""Seconds between looks: soon after a block was launched, and else."""


def free_slots(managers: Iterable[dict[str, Any]], prefetch: int) -> int:
    """How many tasks the connected managers take at a time."""
    return sum(
        m["worker_count"] + prefetch for m in managers if m["active"] and not m.get("draining")
    )


def describe(
    managers: Iterable[dict[str, Any]],
    packages: dict[str, dict[str, str]],
    jobs: dict[str, str],
) -> dict[str, list[dict[str, Any]]]:
    """The managers by job, as a status report has them."""
    found: dict[str, list[dict[str, Any]]] = {}
    for m in managers:
        versions = packages.get(m["manager"], {})
        found.setdefault(str(jobs.get(m["block_id"], m["block_id"])), []).append(
            {
                "worker_count": m["worker_count"],
                "idle_duration": m["idle_duration"],
                "parsl_version": m["parsl_version"],
                "endpoint_version": versions.get("globus-compute-endpoint"),
                "sdk_version": versions.get("globus-compute-sdk"),
                "python_version": m["python_version"],
            }
        )
    return found


def fixed_status(spec: ParslSpec) -> dict[str, Any]:
    """What a status report says of the configuration, with Parsl's defaults."""
    executor, provider = spec.executor, spec.provider.arguments if spec.provider else {}
    per_node = "max_workers_per_block" if spec.mpi else "max_workers_per_node"
    most = provider.get("max_blocks", 1)
    return {
        "engine_type": spec.type,
        "provider_type": spec.provider.type if spec.provider else "LocalProvider",
        "scaling_enabled": most > 0,
        "mem_per_worker": executor.get("mem_per_worker"),
        "cores_per_worker": executor.get("cores_per_worker", 1e-9 if spec.mpi else 1.0),
        "prefetch_capacity": executor.get("prefetch_capacity", 0),
        "max_blocks": most,
        "min_blocks": provider.get("min_blocks", 0),
        "max_workers_per_node": executor.get(per_node, 1),
        "nodes_per_block": provider.get("nodes_per_block", 1),
        "queue": provider.get("queue") or provider.get("partition"),
        "account": provider.get("account") or provider.get("project"),
    }


class Watch(threading.Thread):
    """Sends a STATE frame when something has changed, or has been idle on.

    ``lost`` is called when a manager is not connected any more.
    """

    def __init__(self, executor: Any, pipe: Pipe, lost: Callable[[], None]) -> None:
        super().__init__(name="watch", daemon=True)
        self.slots = 0
        self._executor = executor
        self._pipe = pipe
        self._lost = lost
        self._names: set[str] = set()
        self._now = threading.Event()
        self._packages: dict[str, dict[str, str]] = {}
        self._last: Any = None
        self._turns = 0

    def hurry(self) -> None:
        """Something may change soon."""
        self._turns = 0
        self._now.set()

    def run(self) -> None:
        while not self._executor.bad_state_is_set:
            try:
                self._tell(self._executor.connected_managers())
            except Exception:  # the main thread sees an interchange that has ended
                log.exception("it cannot be seen what is connected")
            pause = SLOW if self.slots else min(SLOW, FAST * 1.05**self._turns)
            self._turns += 1
            self._now.wait(pause)
            self._now.clear()

    def _tell(self, managers: list[dict[str, Any]]) -> None:
        before, self._names = self._names, {m["manager"] for m in managers}
        if before - self._names:
            self._lost()
        if self._names - set(self._packages):
            self._packages = self._executor.connected_managers_packages()
        self.slots = free_slots(managers, self._executor.prefetch_capacity)
        seen = [
            (m["manager"], m["worker_count"], m["active"], m["tasks"], int(m["idle_duration"] / 10))
            for m in managers
        ]
        if seen != self._last:
            self._last = seen
            body = json.dumps(self._state(managers)).encode()
            self._pipe.send(frames.Frame(frames.STATE, {"slots": self.slots}, body))

    def _state(self, managers: list[dict[str, Any]]) -> dict[str, Any]:
        """What a status report says of managers and workers."""
        workers = sum(m["worker_count"] for m in managers)
        idle = sum(max(0, m["worker_count"] - m["tasks"]) for m in managers)
        jobs = dict(self._executor.blocks_to_job_id)
        return {
            "managers": len(managers),
            "active_managers": sum(1 for m in managers if m["active"]),
            "total_workers": workers,
            "idle_workers": idle,
            "node_info": describe(managers, self._packages, jobs),
        }
