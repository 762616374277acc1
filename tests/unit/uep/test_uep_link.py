"""The link's decisions, without a broker."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable
from typing import Any

import pytest

from mepd.uep import backoff
from mepd.uep import link as link_module
from mepd.posix.addresses import reachable
from mepd.uep.amqp import IOLoop, ProbableAuthenticationError
from mepd.uep.broker import group_by_url
from mepd.uep.link import Link, cause, parameters, refused


class FakeLoop:
    def __init__(self) -> None:
        self.timers: list[tuple[float, Callable[[], None]]] = []

    def call_later(self, wait: float, callback: Callable[[], None]) -> object:
        self.timers.append((wait, callback))
        return self.timers[-1]


class VirtualLoop(FakeLoop):
    """Its hours take no time."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0

    def call_later(self, wait: float, callback: Callable[[], None]) -> object:
        return super().call_later(self.now + wait, callback)

    def run_until(self, end: float) -> None:
        while self.timers:
            timer = min(self.timers, key=lambda t: t[0])
            if timer[0] > end:
                break
            self.timers.remove(timer)
            self.now = timer[0]
            timer[1]()
        self.now = end


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
    assert cause(Failed(Wrapped(ConnectionRefusedError(111, "refused")))) == "refused"


def test_a_broker_gone_for_an_hour_is_asked_for_again_and_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    loop, role, there = VirtualLoop(), FakeRole("tasks", "amqp://h/"), False
    attempts: list[float] = []

    def connect(_params: Any, on_open_callback: Any, on_open_error_callback: Any, **_: Any) -> Any:
        attempts.append(loop.now)
        made = FakeConnection()
        refusal = ConnectionRefusedError(111, "Connection refused")
        loop.call_later(0.0, lambda: on_open_callback(made) if there else
                        on_open_error_callback(made, refusal))  # fmt: skip
        return made

    monkeypatch.setattr(link_module, "Connection", connect)
    opened: list[object] = []
    monkeypatch.setattr(Link, "_open_channel", lambda _self, role: opened.append(role))
    told: list[str] = []
    link = Link(loop, [role], None, told.append)  # type: ignore[arg-type]
    link.start()
    loop.run_until(3600.0)
    waits = [b - a for a, b in zip(attempts, attempts[1:], strict=False)]
    assert max(waits) <= backoff.MOST and 120 <= len(attempts) < 200
    assert opened == [] and told == []
    there = True
    loop.run_until(3600.0 + backoff.MOST)
    assert opened == [role]


def no_thread(_thread: threading.Thread) -> None:
    raise RuntimeError("can't start new thread")


def no_socket(*_args: object) -> None:
    raise OSError(24, "Too many open files")


@pytest.mark.parametrize(
    ("what", "fails", "words"),
    [
        ((threading.Thread, "start"), no_thread, "can't start new thread"),
        ((socket, "socket"), no_socket, "Too many open files"),
    ],
)
def test_R6_no_thread_and_no_descriptor_for_a_connection_are_waited_out(
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    what: tuple[Any, str],
    fails: Callable[..., None],
    words: str,
) -> None:
    """pika has neither refusal in its books: it would end the loop, and tasks with it."""
    loop = IOLoop()
    link = Link(loop, [FakeRole("tasks", "amqp://127.0.0.1:9/")], None, lambda _text: None)
    with monkeypatch.context() as patch:
        patch.setattr(*what, fails)
        link.start()
        loop.call_later(0.5, loop.stop)
        loop.start()
    assert f"broker: cannot connect: {words}; next attempt in" in caplog.text
    loop.close()


def test_addresses_without_a_socket_are_left_out() -> None:
    good = (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", 9))
    bad = (socket.AF_AX25, socket.SOCK_STREAM, 6, "", ("x", 9))
    assert reachable([bad, good]) == [good]
    assert isinstance(reachable([bad]), OSError) and isinstance(reachable([]), OSError)
    error = socket.gaierror(1, "no such name")
    assert reachable(error) is error


@pytest.mark.parametrize("options", ["{'TCP_KEEPIDLE':'x'}", "{'TCP_USER_TIMEOUT':None}"])
def test_a_url_with_options_that_no_socket_takes_is_refused(options: str) -> None:
    with pytest.raises(ValueError):
        parameters(f"amqp://h/?tcp_options={options}")
    assert parameters("amqp://h/?tcp_options={'TCP_KEEPIDLE':60}").tcp_options


@pytest.mark.parametrize("answers", [False, True])
def test_the_log_says_why_there_is_no_connection(answers: bool) -> None:
    """As pika has it: nobody listens, or who listens hangs up."""
    loop, texts = IOLoop(), []
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        thread = threading.Thread(target=lambda: server.accept()[0].close())
        if answers:
            thread.start()
        else:
            server.close()
        link = Link(loop, [FakeRole("tasks", f"amqp://name:s3cret@127.0.0.1:{port}/")], None, print)

        def failed(text: str) -> None:
            texts.append(text)
            loop.stop()

        link._failed = failed  # type: ignore[method-assign]
        link.start()
        loop.call_later(20, loop.stop)
        loop.start()
    loop.close()
    (text,) = texts
    assert "s3cret" not in text and "name" not in text
    assert ("StreamLostError" if answers else "cannot connect: Connection refused") in text


class EndingChannel(FakeChannel):
    """The broker closes it for what is sent on it: its exchange was deleted, say."""

    def __init__(self) -> None:
        self.on_close: list[Callable[[Any, Any], None]] = []

    def add_on_close_callback(self, callback: Callable[[Any, Any], None]) -> None:
        self.on_close.append(callback)


def test_A3_a_channel_that_is_closed_each_time_it_is_up_is_not_opened_without_pause() -> None:
    loop, role, connection = VirtualLoop(), FakeRole("results", "amqp://1"), FakeConnection()
    link = Link(loop, [role], None, lambda _text: None)  # type: ignore[arg-type]
    opened = 0

    def open_channel(on_open_callback: Callable[[Any], None]) -> None:
        nonlocal opened
        opened += 1
        channel = EndingChannel()
        on_open_callback(channel)
        for told in channel.on_close:
            loop.call_later(0.01, lambda t=told: t(channel, OSError("404")))

    connection.channel = open_channel  # type: ignore[method-assign]
    link._connection = connection  # type: ignore[assignment]
    link._open_channel(role)
    loop.run_until(3600.0)
    assert 100 < opened < 200

    def open_good(on_open_callback: Callable[[Any], None]) -> None:
        on_open_callback(EndingChannel())

    connection.channel = open_good  # type: ignore[method-assign]
    loop.run_until(3700.0)
    assert not link._channel_failures
