"""Rows about mepd's own gateway; the peer has none."""

from __future__ import annotations

import contextlib
import queue
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import requests

from benchmarks import floors
from benchmarks.figures import Samples
from benchmarks.gatewayside import GatewaySide, Results, on_postgresql, on_sqlite

__all__ = ["on_postgresql", "on_sqlite"]

STARTS = 20
BATCHES = {1: 400, 16: 100, 128: 30}
"""Tasks of a submission -> submissions."""
CLIENTS = 4


def starts(side: GatewaySide) -> Samples:
    """Twenty user endpoints by as many submissions at once through mepd's own gateway."""
    with side.results() as results:
        began = time.monotonic()
        bodies = [side.body(results.group, 1, number=n) for n in range(STARTS)]
        with _submitting(side, results, bodies, STARTS) as answered:
            last = results.until(STARTS)
    return {
        "starts": [STARTS / (_last(answered) - began)],
        "first results": [STARTS / (last - began)],
    }


def starts_floor(side: GatewaySide) -> Samples:
    """Bare interpreters as the user."""
    last = max(floors.run_all_as(side.users * STARTS))
    return {"starts": [STARTS / last]}


def _last(answered: list[Future[float]]) -> float:
    return max(future.result() for future in answered)


def tasks_sqlite(side: GatewaySide) -> Samples:
    """Tasks a second submitted, and to the result, by four clients at once; on SQLite."""
    return _tasks(side)


def tasks_postgresql(side: GatewaySide) -> Samples:
    """Tasks a second submitted, and to the result, by four clients at once; on PostgreSQL."""
    return _tasks(side)


def _tasks(side: GatewaySide) -> Samples:
    found: Samples = {}
    for size, count in BATCHES.items():
        with side.results() as results:
            body = side.body(results.group, size)
            began = time.monotonic()
            with _submitting(side, results, [body] * count, CLIENTS) as answered:
                last = results.until(size * count)
        found[f"{size} a batch: submitted"] = [size * count / (_last(answered) - began)]
        found[f"{size} a batch: results"] = [size * count / (last - began)]
    return found


@contextlib.contextmanager
def _submitting(
    side: GatewaySide, results: Results, bodies: list[dict[str, Any]], clients: int
) -> Iterator[list[Future[float]]]:
    """Begin to submit all, each client on a connection of its own; when each was answered.

    Who waits for ``results`` hears of a refusal.
    """
    free: queue.SimpleQueue[requests.Session] = queue.SimpleQueue()

    def submit(body: dict[str, Any]) -> float:
        session = free.get()
        try:
            side.submit(session, body)
            return time.monotonic()
        except Exception as e:
            results.failure = e
            raise
        finally:
            free.put(session)

    with contextlib.ExitStack() as stack:
        for _ in range(clients):
            free.put(stack.enter_context(requests.Session()))
        pool = stack.enter_context(ThreadPoolExecutor(clients))
        yield [pool.submit(submit, body) for body in bodies]
