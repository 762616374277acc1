"""The last heartbeat, whatever the connection was about to do."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from mepd.consumer import heartbeat
from mepd.consumer.heartbeat import LAST_WORD_S, Heartbeat


class Loop:
    def __init__(self) -> None:
        self.timers: list[tuple[float, Callable[[], None]]] = []

    def call_later(self, delay: float, callback: Callable[[], None]) -> Any:
        self.timers.append((delay, callback))
        return self.timers[-1]

    def remove_timeout(self, timer: Any) -> None:
        self.timers.remove(timer)


class Publisher:
    """The broker's end is the test's."""

    def __init__(self, _loop: Any, _address: Any, on_ready: Any, on_end: Any) -> None:
        self.on_ready, self.on_end = on_ready, on_end
        self.ready = self.closed = False
        self.sent: list[tuple[float, Callable[[str], None]]] = []

    @property
    def idle(self) -> bool:
        return self.ready and not self.sent

    def open(self) -> None:
        self.ready = True
        self.on_ready()

    def publish(self, _exchange: str, _key: str, body: bytes, done: Any) -> None:
        period = json.loads(body[1:])["data"]["global_state"]["heartbeat_period"]
        self.sent.append((period, done))

    def close(self) -> None:
        self.closed, self.ready = True, False

    def periods(self) -> list[float]:
        return [period for period, _ in self.sent]


@pytest.fixture
def parts(monkeypatch: pytest.MonkeyPatch) -> tuple[Loop, Heartbeat, Publisher, list[str]]:
    monkeypatch.setattr(heartbeat, "Publisher", Publisher)
    loop, where, address = Loop(), type("W", (), {}), type("A", (), {})
    where.endpoint_id = "4ade0000-0000-4000-8000-000000000001"  # type: ignore[attr-defined]
    where.heartbeat_exchange = where.heartbeat_routing_key = "x"  # type: ignore[attr-defined]
    any_: Any = (loop, address, where)
    made = Heartbeat(any_[0], any_[1], any_[2], 30.0, lambda: None)
    publisher: Any = made._publisher
    return loop, made, publisher, []


Parts = tuple[Loop, Heartbeat, Publisher, list[str]]


def test_goodbye_of_one_that_is_still_connecting(parts: Parts) -> None:
    _, made, publisher, told = parts
    made.say_goodbye(lambda: told.append("done"))
    assert not told
    publisher.open()
    assert publisher.periods() == [0] and not told
    publisher.sent[0][1]("")
    assert told == ["done"] and publisher.closed


def test_goodbye_behind_a_heartbeat_that_is_not_confirmed(parts: Parts) -> None:
    _, made, publisher, told = parts
    publisher.open()
    made.say_goodbye(lambda: told.append("done"))
    assert publisher.periods() == [30, 0] and not told
    publisher.sent[1][1]("")
    assert told == ["done"]


@pytest.mark.parametrize("how", ["late", "lost"])
def test_goodbye_is_over_in_time(parts: Parts, how: str) -> None:
    loop, made, publisher, told = parts
    made.say_goodbye(lambda: told.append("done"))
    ((delay, over),) = loop.timers
    assert delay == LAST_WORD_S
    if how == "lost":
        publisher.on_end("refused")
        assert not loop.timers
    else:
        over()
    assert told == ["done"] and publisher.closed and not publisher.sent


def test_goodbye_of_one_without_a_connection(parts: Parts) -> None:
    loop, made, publisher, told = parts
    publisher.on_end("refused")
    made.say_goodbye(lambda: told.append("done"))
    assert told == ["done"] and not loop.timers
