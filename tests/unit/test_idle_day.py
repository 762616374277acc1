"""A day of many user endpoints, simulated: their own idle clocks, and the master's backstop."""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest

from mepd.master import decisions
from mepd.model import Activity
from mepd.uep.idle import IdleLimits, Limit, Movement
from mepd.uep.idletimer import IdleTimer

DAY = 86400.0
PERIOD = 30.0
LOOKS_EVERY = 5.0
"""Seconds between two looks of the master."""


class Clock:
    """The loop of all: what is due happens in order, and hours take no time."""

    def __init__(self) -> None:
        self.now = 0.0
        self._due: list[tuple[float, int, Callable[[], None]]] = []
        self._gone: set[int] = set()
        self._count = 0

    def call_later(self, delay: float, callback: Callable[[], None]) -> int:
        self._count += 1
        heapq.heappush(self._due, (self.now + delay, self._count, callback))
        return self._count

    def remove_timeout(self, timer: int) -> None:
        self._gone.add(timer)

    def run(self, until: float) -> None:
        while self._due and self._due[0][0] <= until:
            when, number, callback = heapq.heappop(self._due)
            self.now = max(self.now, when)
            if number not in self._gone:
                callback()
        self.now = until


@dataclass(eq=False)
class Simulated:
    """One user endpoint; ``clock_works`` False: its own idle clock never fires."""

    clock: Clock
    limits: IdleLimits
    clock_works: bool = True
    moved: Movement = field(default_factory=lambda: Movement(0.0))
    told: Activity | None = None
    told_at: float = 0.0
    silent: bool = False
    ended: tuple[float, str] | None = None
    timer: Any = None

    def begin(self) -> None:
        self.moved = Movement(self.clock.now)
        self.timer = IdleTimer(
            self.clock, self.limits, lambda: self.moved, self._idle,  # type: ignore[arg-type]
            lambda: self.clock.now,
        )  # fmt: skip
        if self.clock_works:
            self.timer.arm()
        self.report()

    def _idle(self, limit: Limit) -> None:
        if self.ended is None:
            self.ended = (self.clock.now, limit.value)

    def move(self, received: int = 0, done: int = 0) -> None:
        if self.ended is not None:
            return
        m = self.moved
        self.moved = Movement(
            self.clock.now, m.received + received, m.done + done, m.outstanding + received - done
        )
        if self.clock_works:
            self.timer.arm()
        self.tell()

    def report(self) -> None:
        """Every heartbeat; what moves is told at once."""
        if self.ended is None:
            self.tell()
            self.clock.call_later(PERIOD, self.report)

    def tell(self) -> None:
        if self.silent:
            return
        m = self.moved
        self.told = Activity(
            m.received, m.outstanding, m.done, self.clock.now - m.last_move,
            self.limits.soft, self.limits.hard, PERIOD,
        )  # fmt: skip
        self.told_at = self.clock.now

    @property
    def due(self) -> float:
        """When it must end by its limits, reckoned anew."""
        m = self.moved
        beats = self.limits.soft if m.received and not m.outstanding else self.limits.hard
        return m.last_move + beats * PERIOD


def master(clock: Clock, all_of_them: list[Simulated]) -> None:
    """Its look at the table, as Stopper.reapable has it."""
    for uep in all_of_them:
        if uep.ended is None and uep.told is not None:
            reason = decisions.reap_reason(uep.told, clock.now - uep.told_at)
            if reason:
                uep.ended = (clock.now, f"reaped: {reason}")
    clock.call_later(LOOKS_EVERY, lambda: master(clock, all_of_them))


def work(clock: Clock, uep: Simulated, chance: random.Random) -> None:
    """Tasks at random until its user goes home, the last of which may never end."""
    at = chance.uniform(0, 600)
    home = chance.uniform(0, DAY * 0.8)
    while at < home:
        clock.call_later(at, lambda: uep.move(received=1))
        at += chance.expovariate(1 / 60)
        if at >= home and chance.random() < 0.5:
            break
        clock.call_later(at, lambda: uep.move(done=1))
        at += chance.expovariate(1 / 60)


@pytest.mark.parametrize("seed", range(5))
def test_L3_a_day_of_idle_clocks(seed: int) -> None:
    """Each ends at its own limit; the master ends those that do not, and nobody else."""
    chance = random.Random(seed)
    clock = Clock()
    ueps = []
    for number in range(60):
        soft = chance.choice([1, 10, 40])
        limits = IdleLimits(PERIOD, soft, soft + chance.choice([1, 100, 400]))
        uep = Simulated(clock, limits, clock_works=number % 3 != 0)
        ueps.append(uep)
        clock.call_later(0.0, uep.begin)
        work(clock, uep, chance)
    hung = ueps[1::10]
    for uep in hung:
        uep.limits = IdleLimits(PERIOD, 0, 0)
        clock.call_later(DAY / 2, lambda uep=uep: setattr(uep, "silent", True))
    clock.run(1.0)
    clock.call_later(0.0, lambda: master(clock, ueps))
    clock.run(DAY)
    for uep in ueps:
        if uep in hung:
            assert uep.ended is not None and "hung" in uep.ended[1]
            # its last report was up to a period before
            late = uep.ended[0] - (DAY / 2 + decisions.SILENT_PERIODS * PERIOD)
            assert -PERIOD <= late <= LOOKS_EVERY + 1
        elif uep.due >= DAY:
            assert uep.ended is None
        elif uep.clock_works:
            assert uep.ended is not None and not uep.ended[1].startswith("reaped")
            assert uep.ended[0] == pytest.approx(uep.due)
        else:
            assert uep.ended is not None and "idle_heartbeats" in uep.ended[1]
            late = uep.ended[0] - uep.due - decisions.IDLE_GRACE_PERIODS * PERIOD
            assert 0 <= late <= PERIOD + LOOKS_EVERY
    assert sum(uep.ended is not None for uep in ueps) > 50


def test_L3_a_clock_that_jumps_ends_what_is_due_only() -> None:
    """A machine that stood still: what is due ends late, and nothing else ends."""
    clock = Clock()
    busy, idle = (Simulated(clock, IdleLimits(PERIOD, 10, 5760)) for _ in range(2))
    for uep in (busy, idle):
        uep.begin()
        uep.move(received=1)
    idle.move(done=1)
    clock.now += 3600.0
    clock.run(clock.now)
    assert busy.ended is None and idle.ended == (3600.0, "soft")
