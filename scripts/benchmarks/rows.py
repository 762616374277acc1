"""All rows by name, and the run of them."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from rabbit import Rabbit

from benchmarks import rows_memory, rows_start, rows_tasks
from benchmarks.figures import Line, Samples
from benchmarks.sides import Side, start_mepd, start_peer
from tests.conftest import make_user, remove_user

Measure = Callable[[Side], Samples]
USERS = 20
PEER = Path(os.environ.get("MEPD_TEST_PEER", "/opt/mepd-test-peer"))


@dataclass(frozen=True)
class Row:
    """``lines`` are (name, unit, goal); a unit a second is better when there is more of it."""

    name: str
    measure: Measure
    lines: tuple[tuple[str, str, float | None], ...]
    floor: Measure | None = None
    users: int = 1


ROWS = (
    Row(
        "start",
        rows_start.start,
        (("first report", "s", 0.12), ("manager's CPU", "s", None)),
        rows_start.start_floor,
    ),
    Row(
        "burst",
        rows_start.burst,
        (("last first report", "s", 0.9),),
        rows_start.burst_floor,
        USERS,
    ),
    Row(
        "first-result",
        rows_start.first_result,
        (("ThreadPoolEngine", "s", 0.35), ("ProcessPoolEngine", "s", 0.35)),
    ),
    Row(
        "uep-memory",
        rows_memory.uep,
        (
            ("RSS", "MiB", 25.0),
            ("USS", "MiB", 15.0),
            ("RSS with workers", "MiB", None),
            ("USS with workers", "MiB", None),
            ("PSS with workers", "MiB", None),
        ),
    ),
    Row(
        "manager-memory",
        rows_memory.manager,
        (("RSS", "MiB", 35.0), ("PSS with helpers", "MiB", None)),
        users=USERS,
    ),
    Row(
        "round-trip",
        rows_tasks.round_trip,
        (("round trip", "ms", 5.0),),
        rows_tasks.round_trip_floor,
    ),
    Row("rate", rows_tasks.rate, (("tasks", "1/s", 3000.0), ("CPU a task", "ms", None))),
    Row("parsl", rows_start.parsl, (("GlobusComputeEngine", "s", 3.0),)),
    Row("stop", rows_start.stop, (("nothing left", "s", 2.0),), users=USERS),
    Row(
        "idle",
        rows_memory.idle,
        (
            ("manager: CPU", "s/min", None),
            ("manager: wakeups", "/min", None),
            ("UEP: CPU", "s/min", None),
            ("UEP: wakeups", "/min", None),
        ),
    ),
    Row("queued", rows_tasks.queued, (("tasks", "1/s", None), ("memory grew", "MiB", None))),
)


def measure(row: Row, rabbit: Rabbit, with_peer: bool) -> Iterator[Line]:
    """Run a row on each side, one after the other; its lines."""
    found: dict[str, Samples] = {}
    users = [make_user() for _ in range(row.users)]
    worker = make_user()
    try:
        side = start_mepd(rabbit, users, worker)
        _on(side, row, found)
        if with_peer:
            _on(start_peer(rabbit, users, PEER), row, found)
    finally:
        for user in (*users, worker):
            remove_user(user)
    for name, unit, goal in row.lines:
        samples = {side: values[name] for side, values in found.items() if name in values}
        yield Line(row.name, name, unit, goal, unit == "1/s", samples)


def _on(side: Side, row: Row, found: dict[str, Samples]) -> None:
    try:
        if row.floor is not None and "floor" not in found:
            found["floor"] = row.floor(side)
        found[side.name] = row.measure(side)
    except BaseException:
        print(side.log()[-3000:], file=sys.stderr)
        raise
    finally:
        side.close()
