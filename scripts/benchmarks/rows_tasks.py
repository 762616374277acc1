"""Rows about tasks through one user endpoint with the thread engine."""

from __future__ import annotations

import time
from collections.abc import Callable

import psutil

from benchmarks import floors
from benchmarks.figures import Samples
from benchmarks.rows_memory import MIB
from benchmarks.service import Service
from benchmarks.sides import Side

MANY = 3000
QUEUED = 10_000
QUEUED_LONG = 100_000
TRIPS = 30
SAMPLE_EVERY_S = 1.0
PATIENCE = 600.0


def round_trip(side: Side) -> Samples:
    """One task at a time: from its publishing to its result, in milliseconds."""
    service = side.service
    uep_id = _running(side)
    milliseconds = []
    for _ in range(TRIPS):
        began = time.monotonic()
        [at] = service.results_of(service.send_tasks(uep_id, 1))
        milliseconds.append((at - began) * 1000)
    return {"round trip": milliseconds}


def round_trip_floor(side: Side) -> Samples:
    return {"round trip": [s * 1000 for s in floors.pika_round_trips(side.service.rabbit, TRIPS)]}


def _running(side: Side) -> str:
    """A UEP that has done a task."""
    [uep_id] = side.start_ueps(1)
    side.service.results_of(side.service.send_tasks(uep_id, 1))
    return uep_id


def rate(side: Side) -> Samples:
    """Tasks per second, all published at once; and the CPU of each in the user endpoint."""
    uep_id = _running(side)
    rates, cpu = [], []
    for _ in range(3):
        before = _cpu(side)
        rates.append(_rate(side.service, uep_id))
        cpu.append((_cpu(side) - before) / MANY * 1000)
    return {"tasks": rates, "CPU a task": cpu}


def _rate(service: Service, uep_id: str) -> float:
    began = time.monotonic()
    ends = service.results_of(service.send_tasks(uep_id, MANY))
    return MANY / (max(ends) - began)


def rate_floor(side: Side) -> Samples:
    """Bare pika that answers, as fast as this bench asks."""
    with floors.echo(side.service) as (uep_id, _process):
        return {"tasks": [_rate(side.service, uep_id) for _ in range(3)]}


def _cpu(side: Side) -> float:
    spent = [process.cpu_times() for family in side.families() for process in family]
    return sum(t.user + t.system for t in spent)


def queued(side: Side) -> Samples:
    """10,000 tasks that waited in the queue: their rate, and memory as it grows."""
    return _queued(side, QUEUED)


def queued_100k(side: Side) -> Samples:
    """100,000 tasks that waited in the queue: their rate, memory as it grows; takes minutes."""
    return _queued(side, QUEUED_LONG)


def _queued(side: Side, count: int) -> Samples:
    uep_id = _running(side)
    [family] = side.families()
    memory = Memory(family)
    before = memory.now()
    rate = _drain(side.service, uep_id, family[0], count, memory.sample)
    memory.samples.append(memory.now())
    return {
        "tasks": [rate],
        "memory": memory.samples,
        "memory grew": [max(memory.samples) - before],
    }


def _drain(
    service: Service,
    uep_id: str,
    uep: psutil.Process,
    count: int,
    meanwhile: Callable[[], None] = lambda: None,
) -> float:
    """Tasks a second that ``uep`` does of those that came while it was stopped."""
    uep.suspend()
    try:
        ids = service.send_tasks(uep_id, count)
    finally:
        began = time.monotonic()
        uep.resume()
    return count / (max(service.results_of(ids, PATIENCE, meanwhile)) - began)


class Memory:
    """Resident MiB of a user endpoint and its workers, sampled when it is time to."""

    def __init__(self, family: list[psutil.Process]) -> None:
        self.samples: list[float] = []
        self._family = family
        self._next = 0.0

    def now(self) -> float:
        return float(sum(p.memory_info().rss for p in self._family)) / MIB

    def sample(self) -> None:
        if time.monotonic() >= self._next:
            self.samples.append(self.now())
            self._next = time.monotonic() + SAMPLE_EVERY_S


def queued_floor(side: Side) -> Samples:
    """Bare pika that answers ten thousand which waited; bare interpreters do not grow."""
    with floors.echo(side.service) as (uep_id, process):
        return {"tasks": [_drain(side.service, uep_id, process, QUEUED)]}
