"""The link's decisions, without a broker."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from mepd.uep.amqp import ProbableAuthenticationError
from mepd.uep.broker import group_by_url
from mepd.uep.link import Link, cause, refused


class FakeLoop:
    def __init__(self) -> None:
        self.timers: list[tuple[float, Callable[[], None]]] = []

    def call_later(self, wait: float, callback: Callable[[], None]) -> object:
        self.timers.append((wait, callback))
        return self.timers[-1]


class FakeChannel:
    is_closed = False


class FakeConnection:
    is_open = True

    def __init__(self) -> None:
        self.opening: list[Callable[[Any], None]] = []

    def channel(self, on_open_callback: Callable[[Any], None]) -> None:
        self.opening.append(on_open_callback)


class FakeRole:
    up = True

    def __init__(self, name: str, url: str) -> None:
        self.name = name
        self._url = url
        self.closings = 0

    def url(self) -> str:
        return self._url

    def opened(self, channel: Any, is_up: Callable[[], None]) -> None:
        is_up()

    def closed(self, _error: object) -> None:
        self.closings += 1


def test_roles_share_a_connection_where_the_url_is_the_same() -> None:
    a, b, c = FakeRole("a", "amqp://1"), FakeRole("b", "amqp://2"), FakeRole("c", "amqp://1")
    assert group_by_url([a, b, c]) == [[a, c], [b]]


def test_T6_a_channel_that_closed_silently_is_opened_again() -> None:
    loop, role, connection = FakeLoop(), FakeRole("tasks", "amqp://1"), FakeConnection()
    link = Link(loop, [role], None, lambda _text: None)  # type: ignore[arg-type]
    channel = FakeChannel()
    link._connection, link._channels = connection, {"tasks": channel}  # type: ignore[assignment]
    link.check()
    assert role.closings == 0 and loop.timers == []
    channel.is_closed = True
    link.check()
    link.check()
    assert role.closings == 1 and len(loop.timers) == 1
    loop.timers[0][1]()
    assert len(connection.opening) == 1


class Failed(Exception):
    def __init__(self, *exceptions: Exception) -> None:
        super().__init__("workflow")
        self.exceptions = exceptions


class Wrapped(Exception):
    def __init__(self, exception: Exception) -> None:
        super().__init__("wrapped")
        self.exception = exception


def test_refused_credentials_are_told_from_a_lost_broker() -> None:
    assert refused(Failed(Wrapped(ProbableAuthenticationError("no"))))
    assert refused(ProbableAuthenticationError("no"))
    assert not refused(Failed(OSError(), Wrapped(ConnectionRefusedError(111, "refused"))))
    assert "refused" in cause(Failed(Wrapped(ConnectionRefusedError(111, "refused"))))
