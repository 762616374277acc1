"""Rows about what is idle: its memory, its processor time and its wakeups."""

from __future__ import annotations

import time

import psutil

from benchmarks.figures import Samples
from benchmarks.sides import Side

MIB = 2**20
MANY = 20
SETTLE = 3.0
QUIET = 15.0


def family(process: psutil.Process) -> list[psutil.Process]:
    """A process and all below it."""
    return [process, *process.children(recursive=True)]


def uep(side: Side) -> Samples:
    """An idle user endpoint after a task: its own process, and with its workers."""
    [uep_id] = side.start_ueps(1)
    side.service.results_of(side.service.send_tasks(uep_id, 1))
    time.sleep(SETTLE)
    found: Samples = {}
    for process in side.ueps():
        own = process.memory_full_info()
        every = [p.memory_full_info() for p in family(process)]
        for name, value in (
            ("RSS", own.rss),
            ("USS", own.uss),
            ("RSS with workers", sum(m.rss for m in every)),
            ("USS with workers", sum(m.uss for m in every)),
            ("PSS with workers", sum(m.pss for m in every)),
        ):
            found.setdefault(name, []).append(value / MIB)
    return found


def manager(side: Side) -> Samples:
    """The manager's process with twenty user endpoints, and with its own helpers."""
    side.service.first_reports(side.start_ueps(MANY))
    time.sleep(SETTLE)
    uids = {user.uid for user in side.users}
    master = psutil.Process(side.process.pid)
    every = [p for p in family(master) if p.pid == master.pid or p.uids().real not in uids]
    return {
        "RSS": [master.memory_info().rss / MIB],
        "PSS with helpers": [sum(p.memory_full_info().pss for p in every) / MIB],
    }


def idle(side: Side) -> Samples:
    """Processor time and wakeups of an idle manager and user endpoint, for a minute."""
    [uep_id] = side.start_ueps(1)
    side.service.first_reports([uep_id])
    time.sleep(SETTLE)
    found: Samples = {}
    [endpoint] = side.ueps()
    watched = {"manager": [psutil.Process(side.process.pid)], "UEP": family(endpoint)}
    before = {name: _spent(processes) for name, processes in watched.items()}
    time.sleep(QUIET)
    for name, processes in watched.items():
        cpu, woken = (b - a for a, b in zip(before[name], _spent(processes)))
        found[f"{name}: CPU"] = [cpu * 60 / QUIET]
        found[f"{name}: wakeups"] = [woken * 60 / QUIET]
    return found


def _spent(processes: list[psutil.Process]) -> tuple[float, float]:
    """Seconds of processor, and voluntary context switches of all threads."""
    cpu, switches = 0.0, 0
    for process in processes:
        times = process.cpu_times()
        cpu += times.user + times.system
        switches += sum(_switches(process.pid, t.id) for t in process.threads())
    return cpu, float(switches)


def _switches(pid: int, tid: int) -> int:
    with open(f"/proc/{pid}/task/{tid}/status") as status:
        text = status.read()
    return int(text.split("\nvoluntary_ctxt_switches:")[1].split()[0])
