"""All rows by name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from benchmarks import rows_gateway, rows_many, rows_memory, rows_start, rows_tasks, sides
from benchmarks.figures import Samples

Measure = Callable[[Any], Samples]
USERS = 20


@dataclass(frozen=True)
class Row:
    """``lines`` are (name, unit, goal); a unit a second is better when there is more of it.

    ``start`` brings up what is measured as mepd; the first line of ``measure``'s docstring
    is the row's description. Without ``peer``, globus-compute-endpoint has no such thing.
    """

    name: str
    measure: Measure
    lines: tuple[tuple[str, str, float | None], ...]
    floor: Measure | None = None
    users: int = 1
    start: Callable[..., Any] = sides.start_mepd
    peer: bool = True

    @property
    def description(self) -> str:
        return (self.measure.__doc__ or "").strip().partition("\n")[0]


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
        "start-among",
        rows_many.start_among,
        (("among a stream of 100", "s", None), ("behind 100 at once", "s", None)),
        rows_many.start_among_floor,
        rows_many.HUNDRED + 1,
    ),
    Row(
        "first-result",
        rows_start.first_result,
        (("ThreadPoolEngine", "s", 0.35), ("ProcessPoolEngine", "s", 0.35)),
        rows_start.first_result_floor,
    ),
    Row("parsl", rows_start.parsl, (("GlobusComputeEngine", "s", 3.0),), rows_start.parsl_floor),
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
        rows_memory.uep_floor,
    ),
    Row(
        "manager-memory",
        rows_memory.manager,
        (("RSS", "MiB", 35.0), ("PSS with helpers", "MiB", None)),
        rows_memory.manager_floor,
        USERS,
    ),
    Row(
        "many",
        rows_many.many,
        (
            ("PSS with workers", "MiB", None),
            ("PSS of all and the manager", "MiB", None),
            ("control request", "ms", None),
            ("control request, 99 of 100", "ms", None),
            ("starts in a stream", "1/s", None),
        ),
        rows_many.many_floor,
        USERS,
    ),
    Row(
        "idle",
        rows_memory.idle,
        tuple(
            (f"{what}: {name}", unit, None)
            for what in ("manager", "manager and helpers", "UEP and workers")
            for name, unit in (("CPU", "s/min"), ("wakeups", "/min"))
        ),
    ),
    Row(
        "round-trip",
        rows_tasks.round_trip,
        (("round trip", "ms", 5.0),),
        rows_tasks.round_trip_floor,
    ),
    Row(
        "rate",
        rows_tasks.rate,
        (("tasks", "1/s", 3000.0), ("CPU a task", "ms", None)),
        rows_tasks.rate_floor,
    ),
    *(
        Row(
            name,
            measure,
            (("tasks", "1/s", None), ("memory", "MiB", None), ("memory grew", "MiB", None)),
            rows_tasks.queued_floor,
        )
        for name, measure in (
            ("queued", rows_tasks.queued),
            ("queued-100k", rows_tasks.queued_100k),
        )
    ),
    Row("stop", rows_many.stop, (("nothing left", "s", 2.0),), rows_many.stop_floor, USERS),
    Row(
        "stop-100",
        rows_many.stop_100,
        (("nothing left", "s", None),),
        rows_many.stop_100_floor,
        USERS,
    ),
    Row(
        "stop-200",
        rows_many.stop_200,
        (("nothing left", "s", 2.0),),
        rows_many.stop_200_floor,
        USERS,
    ),
    Row(
        "gateway-starts",
        rows_gateway.starts,
        (("starts", "1/s", None), ("first results", "1/s", None)),
        rows_gateway.starts_floor,
        start=rows_gateway.on_sqlite,
        peer=False,
    ),
    *(
        Row(
            f"gateway-tasks-{name}",
            measure,
            tuple(
                (f"{size} a batch: {what}", "1/s", None)
                for size in rows_gateway.BATCHES
                for what in ("submitted", "results")
            ),
            start=start,
            peer=False,
        )
        for name, measure, start in (
            ("sqlite", rows_gateway.tasks_sqlite, rows_gateway.on_sqlite),
            ("postgresql", rows_gateway.tasks_postgresql, rows_gateway.on_postgresql),
        )
    ),
)
