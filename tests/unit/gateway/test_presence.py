"""Presence, by a loop whose clock the test moves."""

from __future__ import annotations

import asyncio
import heapq
from typing import Any

import pytest

from mepd.gateway.presence import Presence, period_of


class Clock:
    """As much of an event loop as timers need."""

    def __init__(self) -> None:
        self.now = 100.0
        self._timers: list[tuple[float, int, asyncio.TimerHandle]] = []

    def time(self) -> float:
        return self.now

    def call_at(self, when: float, callback: Any, *args: Any) -> asyncio.TimerHandle:
        handle = asyncio.TimerHandle(when, callback, args, self)  # type: ignore[arg-type]
        heapq.heappush(self._timers, (when, id(handle), handle))
        return handle

    def get_debug(self) -> bool:
        return False

    def _timer_handle_cancelled(self, handle: asyncio.TimerHandle) -> None:
        pass

    def advance(self, seconds: float) -> None:
        self.now += seconds
        while self._timers and self._timers[0][0] <= self.now:
            _, _, handle = heapq.heappop(self._timers)
            if not handle.cancelled():
                handle._run()


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(asyncio, "get_running_loop", lambda: clock)
    return clock


def test_three_missed_heartbeats(clock: Clock) -> None:
    gone: list[str] = []
    presence = Presence(on_gone=gone.append)
    presence.report("a", 10)
    presence.report("b", 1)
    clock.advance(2.9)
    presence.report("b", 1)
    clock.advance(2.9)
    assert presence.online("a") and presence.online("b") and gone == []
    clock.advance(0.2)
    assert gone == ["b"] and not presence.online("b") and presence.online("a")
    clock.advance(30)
    assert gone == ["b", "a"]


def test_a_goodbye_is_told_once(clock: Clock) -> None:
    gone: list[str] = []
    came: list[str] = []
    presence = Presence(on_gone=gone.append, on_online=came.append)
    presence.report("a", 10)
    presence.report("a", 10)
    presence.goodbye("a")
    presence.goodbye("a")
    clock.advance(100)
    assert came == ["a"] and gone == ["a"]


def test_nobody_is_missed_while_the_broker_is_away(clock: Clock) -> None:
    gone: list[str] = []
    presence = Presence(on_gone=gone.append)
    presence.report("a", 10)
    presence.hold()
    clock.advance(1000)
    assert presence.online("a")
    presence.restart_clocks()
    clock.advance(29)
    assert presence.online("a")
    clock.advance(2)
    assert gone == ["a"]


def test_changes_are_taken_once(clock: Clock) -> None:
    presence = Presence()
    presence.report("a", 10)
    presence.report("b", 20)
    presence.goodbye("b")
    changes = presence.take_changes()
    assert changes["a"][1] == 10 and changes["b"] == (0.0, 20)
    assert presence.take_changes() == {}


@pytest.mark.parametrize(
    ("state", "period"),
    [
        ({"heartbeat_period": 30}, 30.0),
        ({"heartbeat_period": 0}, None),
        ({"heartbeat_period": -1}, None),
        ({"heartbeat_period": 30, "active": False}, None),
        ({"heartbeat_period": 5, "active": True}, 5.0),
        ({"heartbeat_period": 10**9}, 3600.0),
        ({"heartbeat_period": "x"}, 30.0),
        ({"heartbeat_period": True}, 30.0),
        ({}, 30.0),
    ],
)
def test_period_of(state: dict[str, object], period: float | None) -> None:
    assert period_of(state) == period


def test_G7_what_the_store_did_not_take_is_told_again() -> None:
    async def run() -> None:
        presence = Presence()
        presence.report("a", 30)
        presence.report("b", 30)
        lost = presence.take_changes()
        presence.goodbye("a")
        presence.put_back(lost)
        again = presence.take_changes()
        assert again == {"a": (0.0, 30), "b": lost["b"]}
        presence.hold()

    asyncio.run(run())
