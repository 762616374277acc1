"""Rows about a hundred and more user endpoints, and about the end of them."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import psutil

from benchmarks import floors
from benchmarks.figures import Samples
from benchmarks.rows_memory import MIB
from benchmarks.sides import Side
from mepd.ctl import client

FEW = 20
HUNDRED = 100
MANY = 200
ONE_USER = 4
PINGS = 300
PATIENCE = 300.0


def stop(side: Side) -> Samples:
    """From SIGTERM to the manager until nothing of it is left, with twenty user endpoints."""
    side.stream_ueps(FEW)
    return {"nothing left": [side.stop()]}


def stop_floor(side: Side) -> Samples:
    """As many bare interpreters, told to end and waited for."""
    return {"nothing left": [floors.stop(side.users[:FEW]) for _ in range(3)]}


def _stop_of(count: int) -> Callable[[Side], Samples]:
    def stop_many(side: Side) -> Samples:
        """From SIGTERM until nothing is left; so many of the peer's take minutes to start."""
        side.stream_ueps(count)
        return {"nothing left": [side.stop()]}

    return stop_many


def _floor_of(count: int) -> Callable[[Side], Samples]:
    def floor(side: Side) -> Samples:
        return {"nothing left": [floors.stop((side.users * count)[:count])]}

    return floor


stop_100, stop_100_floor = _stop_of(HUNDRED), _floor_of(HUNDRED)
stop_200, stop_200_floor = _stop_of(MANY), _floor_of(MANY)


def many(side: Side) -> Samples:
    """200 user endpoints of 20 users: memory of each, and how soon mepd answers among them.

    Of the peer only the memory: it answers nobody. Its starts take minutes.
    """
    began = time.monotonic()
    side.stream_ueps(MANY)
    seconds = time.monotonic() - began
    found = {"starts in a stream": [MANY / seconds]}
    if side.name == "mepd":
        found |= _latency(side)
    families = side.families()
    assert len(families) == MANY, f"{len(families)} user endpoints of {MANY} are alive"
    found["PSS with workers"] = [_pss(family) / MIB for family in families]
    everything = sum(found["PSS with workers"]) + _pss(side.manager()) / MIB
    return found | {"PSS of all and the manager": [everything]}


def _pss(processes: list[psutil.Process]) -> int:
    return sum(p.memory_full_info().pss for p in processes)


def _latency(side: Side) -> Samples:
    """How long the master takes to answer what costs it nothing: what its loop does before."""
    milliseconds = []
    for _ in range(PINGS):
        began = time.monotonic()
        client.call(side.socket, "version")
        milliseconds.append((time.monotonic() - began) * 1000)
        side.service.wait(0.01)
    return _percentiles(milliseconds)


def _percentiles(milliseconds: list[float]) -> Samples:
    last = statistics.quantiles(milliseconds, n=100)[98]
    return {"control request": milliseconds, "control request, 99 of 100": [last]}


def many_floor(side: Side) -> Samples:
    """Two bare interpreters of each user; a bare process that answers at a socket."""
    with floors.interpreters(side.users[:FEW] * 2) as processes:
        pairs = [processes[n::FEW] for n in range(FEW)]
        found = {"PSS with workers": [_pss(pair) / MIB for pair in pairs]}
    return found | _percentiles([s * 1000 for s in floors.socket_round_trips(PINGS)])


def start_among(side: Side) -> Samples:
    """One user's start, to its first report: while 100 others start, and behind 100 at once."""
    service, one = side.service, side.users[-1].name
    asked: dict[str, float] = {}

    def each(number: int) -> None:
        """Now and then, between the others: the one."""
        if number % (HUNDRED // ONE_USER) == HUNDRED // ONE_USER // 2:
            asked[service.start_uep(one)] = time.monotonic()

    side.stream_ueps(HUNDRED, each)
    ends = service.first_reports(list(asked))
    side.end_ueps()
    ids = side.start_ueps(HUNDRED)
    began = time.monotonic()
    mine = service.start_uep(one)
    service.first_reports([mine, *ids], PATIENCE)
    return {
        "among a stream of 100": [end - began for end, began in zip(ends, asked.values())],
        "behind 100 at once": [service.heard[mine] - began],
    }


def start_among_floor(side: Side) -> Samples:
    """A bare interpreter; and one behind a hundred others."""
    return {
        "among a stream of 100": [floors.run_as(side.users[-1]) for _ in range(ONE_USER)],
        "behind 100 at once": [floors.run_all_as(side.users)[-1]],
    }
