"""The thread that looks what is connected, and tells the UEP."""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Iterable
from typing import Any, Protocol

from mepd.uep.engines import frames

log = logging.getLogger(__name__)

FAST, SLOW = 0.05, 1.0
"""Seconds between looks: soon after a block was launched, and else."""


class _Sender(Protocol):
    def send(self, frame: frames.Frame) -> None: ...


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


class Watch(threading.Thread):
    """Sends a STATE frame when something has changed, or has been idle on."""

    def __init__(self, executor: Any, pipe: _Sender) -> None:
        super().__init__(name="watch", daemon=True)
        self.slots = 0
        self._executor = executor
        self._pipe = pipe
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
        if {m["manager"] for m in managers} - set(self._packages):
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
