"""Rows about starts and stops of user endpoints."""

from __future__ import annotations

import time
from pathlib import Path

from benchmarks.figures import Samples
from benchmarks.floors import run_as
from benchmarks.sides import Side

MANY = 20


def start(side: Side) -> Samples:
    """One user at a time: from the request's publishing to the first status report."""
    seconds, cpu = [], []
    for number in range(4):
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
    return {"first report": [run_as(side.users[0]) for _ in range(5)]}


def burst(side: Side) -> Samples:
    """Twenty users at once: from the first request's publishing to the last first report."""
    began = time.monotonic()
    reports = side.service.first_reports(side.start_ueps(MANY))
    return {"last first report": [max(reports) - began]}


def burst_floor(side: Side) -> Samples:
    began = time.monotonic()
    for user in side.users[:MANY]:
        run_as(user)
    return {"last first report": [time.monotonic() - began]}


def first_result(side: Side) -> Samples:
    """From the start request's publishing to the result of a task that waited for it."""
    found: Samples = {}
    for engine in ("ThreadPoolEngine", "ProcessPoolEngine"):
        seconds = found.setdefault(engine, [])
        for _ in range(3):
            began = time.monotonic()
            [uep_id] = side.start_ueps(1, engine)
            [at] = side.service.results_of(side.service.send_tasks(uep_id, 1))
            seconds.append(at - began)
            side.end_ueps()
    return found


def parsl(side: Side) -> Samples:
    """The same with GlobusComputeEngine, which works through Parsl."""
    began = time.monotonic()
    [uep_id] = side.start_ueps(1, "GlobusComputeEngine")
    [at] = side.service.results_of(side.service.send_tasks(uep_id, 1))
    side.end_ueps()
    return {"GlobusComputeEngine": [at - began]}


def stop(side: Side) -> Samples:
    """From SIGTERM to the manager until nothing of it is left, with twenty user endpoints."""
    side.service.first_reports(side.start_ueps(MANY))
    return {"nothing left": [side.stop()]}
