"""Rows about starts of user endpoints, one or some at a time."""

from __future__ import annotations

import time
from pathlib import Path

from benchmarks import floors
from benchmarks.figures import Samples
from benchmarks.sides import Side

MANY = 20
TIMES = 7
FEW_TIMES = 3
ENGINES = ("ThreadPoolEngine", "ProcessPoolEngine")


def start(side: Side) -> Samples:
    """One user at a time: from the request's publishing to the first status report."""
    seconds, cpu = [], []
    for number in range(1 + TIMES):
        before = _cpu(side)
        began = time.monotonic()
        [uep_id] = side.start_ueps(1)
        [at] = side.service.first_reports([uep_id])
        if number:  # the first has caches to fill
            seconds.append(at - began)
            cpu.append(_cpu(side) - before)
        side.end_ueps()
    return {"first report": seconds, "manager's CPU": cpu}


def _cpu(side: Side) -> float:
    """Seconds that the threads of the manager's own process have run."""
    tasks = Path(f"/proc/{side.process.pid}/task").glob("*/schedstat")
    return sum(int(task.read_text().split()[0]) for task in tasks) / 1e9


def start_floor(side: Side) -> Samples:
    return {"first report": [floors.run_as(side.users[0]) for _ in range(5)]}


def burst(side: Side) -> Samples:
    """Twenty users at once: from the first request's publishing to the last first report."""
    seconds = []
    for _ in range(FEW_TIMES):
        began = time.monotonic()
        reports = side.service.first_reports(side.start_ueps(MANY))
        seconds.append(max(reports) - began)
        side.end_ueps()
    return {"last first report": seconds}


def burst_floor(side: Side) -> Samples:
    return {"last first report": [max(floors.run_all_as(side.users[:MANY])) for _ in range(3)]}


def first_result(side: Side) -> Samples:
    """From the start request's publishing to the result of a task that waited for it."""
    found: Samples = {}
    for engine in ENGINES:
        for _ in range(TIMES):
            found.setdefault(engine, []).append(_first_result(side, engine))
    return found


def _first_result(side: Side, engine: str) -> float:
    began = time.monotonic()
    [uep_id] = side.start_ueps(1, engine)
    [at] = side.service.results_of(side.service.send_tasks(uep_id, 1))
    side.end_ueps()
    return at - began


def first_result_floor(side: Side) -> Samples:
    """A user endpoint and below it a worker, both bare."""
    return {engine: [floors.nested(side.users[0], 2) for _ in range(5)] for engine in ENGINES}


def parsl(side: Side) -> Samples:
    """From the start request's publishing to a result by GlobusComputeEngine, through Parsl."""
    seconds = [_first_result(side, "GlobusComputeEngine") for _ in range(FEW_TIMES)]
    return {"GlobusComputeEngine": seconds}


def parsl_floor(side: Side) -> Samples:
    """A user endpoint, a pool of the block, and a worker, one below the other, all bare."""
    return {"GlobusComputeEngine": [floors.nested(side.users[0], 3) for _ in range(5)]}
