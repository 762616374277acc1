"""Rows about what is idle: its memory, its processor time and its wakeups."""

from __future__ import annotations

import os
import pwd

import psutil

from benchmarks import floors
from benchmarks.figures import Samples
from benchmarks.sides import Side
from tests.conftest import User

MIB = 2**20
MANY = 20
SETTLE = 3.0
MINUTE = 60.0


def uep(side: Side) -> Samples:
    """An idle user endpoint after a task: its own process, and with its workers."""
    [uep_id] = side.start_ueps(1)
    side.service.results_of(side.service.send_tasks(uep_id, 1))
    side.service.wait(SETTLE)
    found: Samples = {}
    [family] = side.families()
    _add(found, family[:1], family)
    return found


def _add(found: Samples, own: list[psutil.Process], every: list[psutil.Process]) -> None:
    for name, processes in (("", own), (" with workers", every)):
        infos = [p.memory_full_info() for p in processes]
        for key in ("rss", "uss", "pss"):
            value = sum(getattr(info, key) for info in infos) / MIB
            found.setdefault(f"{key.upper()}{name}", []).append(value)


def uep_floor(side: Side) -> Samples:
    """A bare interpreter; beside it another, for a worker."""
    found: Samples = {}
    with floors.interpreters(side.users * 2) as family:
        _add(found, family[:1], family)
    return found


def manager(side: Side) -> Samples:
    """The manager's process with twenty user endpoints, and with its own helpers."""
    side.service.first_reports(side.start_ueps(MANY))
    side.service.wait(SETTLE)
    own, *helpers = side.manager()
    return {
        "RSS": [own.memory_info().rss / MIB],
        "PSS with helpers": [sum(p.memory_full_info().pss for p in (own, *helpers)) / MIB],
    }


def manager_floor(_side: Side) -> Samples:
    """A bare interpreter."""
    me = User(pwd.getpwuid(os.getuid()).pw_name)
    with floors.interpreters([me]) as [bare]:
        info = bare.memory_full_info()
        return {"RSS": [info.rss / MIB], "PSS with helpers": [info.pss / MIB]}


def idle(side: Side) -> Samples:
    """Processor time and wakeups of what is idle; watched for a minute, so it takes longer."""
    [uep_id] = side.start_ueps(1)
    side.service.results_of(side.service.send_tasks(uep_id, 1))
    side.service.wait(SETTLE)
    found: Samples = {}
    [family] = side.families()
    own, *helpers = side.manager()
    watched = {
        "manager": [own],
        "manager and helpers": [own, *helpers],
        "UEP and workers": family,
    }
    before = {name: _spent(processes) for name, processes in watched.items()}
    side.service.wait(MINUTE)
    for name, processes in watched.items():
        cpu, woken = (b - a for a, b in zip(before[name], _spent(processes)))
        found[f"{name}: CPU"] = [cpu]
        found[f"{name}: wakeups"] = [woken]
    return found


def _spent(processes: list[psutil.Process]) -> tuple[float, float]:
    """Seconds of processor, and voluntary context switches of all threads."""
    cpu, switches = 0.0, 0
    for process in processes:
        for thread in process.threads():
            cpu += _run_time(process.pid, thread.id)
            switches += _switches(process.pid, thread.id)
    return cpu, float(switches)


def _run_time(pid: int, tid: int) -> float:
    with open(f"/proc/{pid}/task/{tid}/schedstat") as file:
        return int(file.read().split()[0]) / 1e9


def _switches(pid: int, tid: int) -> int:
    with open(f"/proc/{pid}/task/{tid}/status") as status:
        text = status.read()
    return int(text.split("\nvoluntary_ctxt_switches:")[1].split()[0])
