"""The idle timer to the second, on a loop and a clock of the test's."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from mepd.uep.idle import IdleLimits, Limit, Movement
from mepd.uep.idletimer import IdleTimer


class Clock:
    """A loop whose timers fire when the test lets time pass."""

    def __init__(self) -> None:
        self.now = 1000.0
        self._timers: list[tuple[float, Callable[[], None]]] = []

    def call_later(self, delay: float, callback: Callable[[], None]) -> Any:
        timer = (self.now + delay, callback)
        self._timers.append(timer)
        return timer

    def remove_timeout(self, timer: Any) -> None:
        self._timers.remove(timer)

    def advance(self, seconds: float) -> None:
        end = self.now + seconds
        while due := sorted((t for t in self._timers if t[0] <= end), key=lambda t: t[0]):
            self._timers.remove(due[0])
            self.now = due[0][0]
            due[0][1]()
        self.now = end


class Bench:
    def __init__(self, soft: int, hard: int) -> None:
        self.clock = Clock()
        self.moved = Movement(self.clock.now)
        self.ended: list[tuple[float, Limit]] = []
        self.timer = IdleTimer(
            self.clock, IdleLimits(30.0, soft, hard), lambda: self.moved,  # type: ignore[arg-type]
            lambda limit: self.ended.append((self.clock.now, limit)), lambda: self.clock.now,
        )  # fmt: skip
        self.timer.arm()

    def move(self, **counts: int) -> None:
        self.moved = Movement(self.clock.now, **counts)
        self.timer.arm()


def test_soft_after_five_minutes_without_a_task_outstanding() -> None:
    bench = Bench(10, 5760)
    bench.move(received=1, outstanding=1)
    bench.clock.advance(7)
    bench.move(received=1, done=1)
    bench.clock.advance(299)
    assert bench.ended == []
    bench.clock.advance(1)
    assert bench.ended == [(1307.0, Limit.SOFT)]


def test_a_task_outstanding_holds_off_the_soft_limit_and_not_the_hard_one() -> None:
    """7 heartbeats of 30 s: the manual's 3m30s."""
    bench = Bench(3, 7)
    bench.move(received=1, outstanding=1)
    bench.clock.advance(209)
    assert bench.ended == []
    bench.clock.advance(1)
    assert bench.ended == [(1210.0, Limit.HARD)]


def test_one_that_never_got_a_task_waits_for_the_hard_limit() -> None:
    bench = Bench(10, 5760)
    bench.clock.advance(48 * 3600 - 1)
    assert bench.ended == []
    bench.clock.advance(1)
    assert bench.ended == [(1000.0 + 48 * 3600, Limit.HARD)]


def test_every_movement_begins_anew() -> None:
    bench = Bench(10, 5760)
    for number in range(1, 50):
        bench.clock.advance(290)
        bench.move(received=number, done=number)
    assert bench.ended == []
    bench.clock.advance(300)
    assert [limit for _, limit in bench.ended] == [Limit.SOFT]
    assert bench.ended[0][0] == 1000.0 + 49 * 290 + 300


@pytest.mark.parametrize("days", [1, 400])
def test_without_limits_never(days: int) -> None:
    bench = Bench(0, 0)
    bench.move(received=1, done=1)
    bench.clock.advance(days * 86400)
    assert bench.ended == []
