"""The control socket: no descriptor, a flood, answers too large, clients that do not read."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from mepd.master import callers, control
from mepd.master.later import Stream
from mepd.master.loop import Loop
from mepd.posix.peer import Peer
from mepd.wire.framing import WORKER_FRAME_MAX as ANSWER_MAX
from mepd.wire.framing import FrameReader, encode_frame

REQUEST = {"v": 1, "verb": "big", "args": {}}


class Served:
    """A control server on a loop that the test turns."""

    def __init__(self, path: Path, handle: Any) -> None:
        self.path = path
        self.loop = Loop()
        self.server = control.ControlServer(
            self.loop, control.listen(path, 0o600, "root"), handle, lambda peer: False
        )

    def connect(self, frame: Any = None) -> socket.socket:
        client = socket.socket(socket.AF_UNIX)
        client.connect(str(self.path))
        if frame is not None:
            client.sendall(encode_frame(frame))
        return client

    def turn(self, times: int = 5) -> None:
        for _ in range(times):
            self.loop.call_later(0, lambda: None)
            self.loop._turn()


def frames(client: socket.socket) -> list[Any]:
    """All that the server says until it closes."""
    client.settimeout(20)
    reader, found = FrameReader(ANSWER_MAX), []
    with contextlib.suppress(ConnectionResetError):  # closed with a request unread
        while data := client.recv(1 << 20):
            found += list(reader.feed(data))
    return found


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Callable[[Any], Served]]:
    made: list[Served] = []

    def begin(handle: Any) -> Served:
        made.append(Served(tmp_path / "sock", handle))
        return made[-1]

    yield begin
    for served in made:
        served.server.close()


def test_an_answer_that_is_too_large(serve: Callable[[Any], Served]) -> None:
    served = serve(lambda peer, verb, args: {"data": "x" * ANSWER_MAX})
    client = served.connect(REQUEST)
    served.turn()
    (answer,) = frames(client)
    assert "the answer is too large" in str(answer) and len(str(answer)) < 500


def test_one_account_cannot_take_all_places(serve: Callable[[Any], Served]) -> None:
    served = serve(lambda peer, verb, args: {})
    idle = [served.connect() for _ in range(callers.PER_UID)]
    served.turn()
    late = served.connect(REQUEST)
    served.turn()
    (refused,) = frames(late)
    assert f"too many connections of uid {os.getuid()}" in str(refused)
    assert "try again later" in str(refused)
    for client in idle:
        client.close()
    served.turn()
    client = served.connect(REQUEST)
    served.turn()
    assert "too many" not in str(frames(client))


def test_a_second_request_gets_no_answer(serve: Callable[[Any], Served]) -> None:
    asked: list[str] = []
    served = serve(lambda peer, verb, args: asked.append(verb) or Stream((), lambda send: list))
    client = served.connect(REQUEST)
    served.turn()
    client.sendall(encode_frame(REQUEST))
    served.turn()
    assert frames(client) == [] and asked == ["big"]


def test_a_client_that_does_not_read_its_stream_is_left(serve: Callable[[Any], Served]) -> None:
    sends: list[Any] = []
    left: list[bool] = []

    def begin(send: Any) -> Any:
        sends.append(send)
        return lambda: left.append(True)

    served = serve(lambda peer, verb, args: Stream(({"n": 0},), begin))
    client = served.connect(REQUEST)
    served.turn()
    for number in range(100):
        sends[0]({"n": number, "data": "x" * 60_000})
        served.turn(1)
    assert left == [True]
    sends[0]({"n": 101})  # what comes later is for nobody
    client.close()


class Failing:
    """A listening socket that has no descriptor to give, once."""

    def __init__(self, real: socket.socket) -> None:
        self.real, self.faults = real, [OSError(errno.EMFILE, os.strerror(errno.EMFILE))]

    def accept(self) -> Any:
        if self.faults:
            raise self.faults.pop()
        return self.real.accept()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.real, name)


def test_no_descriptor_is_left(
    serve: Callable[[Any], Served], monkeypatch: pytest.MonkeyPatch, caplog: Any
) -> None:
    served = serve(lambda peer, verb, args: {"verb": verb})
    later: list[Any] = []
    monkeypatch.setattr(
        served.loop, "call_later", lambda delay, callback: later.append((delay, callback))
    )
    served.server._server = Failing(served.server._server)  # type: ignore[assignment]
    client = served.connect(REQUEST)
    served.loop._turn()
    assert "control socket: cannot accept: Too many open files" in caplog.text.replace(
        "[Errno 24] ", ""
    )
    ((delay, again),) = later
    assert delay > 0
    monkeypatch.undo()
    again()
    served.turn()
    assert "big" in str(frames(client))


def test_a_client_that_is_gone_before_it_is_known(
    serve: Callable[[Any], Served], monkeypatch: pytest.MonkeyPatch
) -> None:
    def gone(connection: socket.socket) -> Peer:
        raise OSError(errno.ENOTCONN, "gone")

    served = serve(lambda peer, verb, args: {"verb": verb})
    with monkeypatch.context() as m:
        m.setattr(control, "peer_of", gone)
        first = served.connect(REQUEST)
        served.turn()
        assert frames(first) == []
    client = served.connect(REQUEST)
    served.turn()
    assert "big" in str(frames(client))
