"""Rows about tasks through one user endpoint with the thread engine."""

from __future__ import annotations

import time

import psutil

from benchmarks.figures import Samples
from benchmarks.floors import pika_round_trips
from benchmarks.rows_memory import family
from benchmarks.sides import Side

MANY = 3000
QUEUED = 10_000
TRIPS = 30


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
    return {"round trip": [s * 1000 for s in pika_round_trips(side.service.rabbit, TRIPS)]}


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
        began = time.monotonic()
        ends = side.service.results_of(side.service.send_tasks(uep_id, MANY))
        rates.append(MANY / (max(ends) - began))
        cpu.append((_cpu(side) - before) / MANY * 1000)
    return {"tasks": rates, "CPU a task": cpu}


def _cpu(side: Side) -> float:
    spent = [p.cpu_times() for uep in side.ueps() for p in family(uep)]
    return sum(t.user + t.system for t in spent)


def queued(side: Side) -> Samples:
    """Ten thousand tasks that waited in the queue: their rate, and what memory grew by."""
    service = side.service
    uep_id = _running(side)
    [uep] = side.ueps()
    uep.suspend()
    ids = service.send_tasks(uep_id, QUEUED)
    before = _rss(uep)
    began = time.monotonic()
    uep.resume()
    ends = service.results_of(ids)
    rate = QUEUED / (max(ends) - began)
    return {"tasks": [rate], "memory grew": [(_rss(uep) - before) / 2**20]}


def _rss(uep: psutil.Process) -> int:
    return sum(p.memory_info().rss for p in family(uep))
