"""A worker between its turns: stopped, replaced or failing, with the processes played."""

from __future__ import annotations

import logging
import os
import socket
from typing import Any

import pytest

from mepd.master import workers
from mepd.master.loop import Loop
from mepd.master.spawner import Spawned
from mepd.master.workers import Worker
from mepd.model import ProgramState
from mepd.posix.accounts import Account
from mepd.posix.process import ProcessId
from mepd.wire import codec
from mepd.wire import worker as wire
from mepd.wire.framing import FrameReader, encode_frame

ACCOUNT = Account("mepd", 999, 999, "", "/", "/bin/sh")


class Reaper:
    def __init__(self) -> None:
        self.ended: dict[int, Any] = {}

    def watch(self, pid: int, callback: Any) -> None:
        self.ended[pid] = callback


class Rig:
    """``theirs`` are the workers' ends, in the order of their starts."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = [0.0]
        self.loop, self.reaper = Loop(lambda: self.now[0]), Reaper()
        self.theirs: list[socket.socket] = []
        self.killed: list[ProcessId] = []
        self.refused = 0
        self.said: list[str] = []
        monkeypatch.setattr(workers.spawner, "worker", self._spawn)
        monkeypatch.setattr(workers.process, "identify", lambda pid: ProcessId(pid, 1.0))
        monkeypatch.setattr(workers.process, "kill_tree", self.killed.append)
        reaper: Any = self.reaper
        self.worker = Worker(self.loop, reaper, "echo", "m:f", ACCOUNT, wire.FROM_CONSUMER)
        self.worker.on_up = lambda: self.said.append("up")
        self.worker.on_down = lambda: self.said.append("down")

    def _spawn(self, *_: Any) -> Spawned:
        if self.refused:
            self.refused -= 1
            raise BlockingIOError(11, "Resource temporarily unavailable")
        ours, theirs = socket.socketpair()
        self.theirs.append(theirs)
        reader, writer = os.pipe()
        os.close(writer)
        return Spawned(2**22 + len(self.theirs), ours, reader)

    @property
    def pid(self) -> int:
        return 2**22 + len(self.theirs)

    def say(self, message: Any) -> None:
        self.theirs[-1].sendall(encode_frame(codec.encode(message)))
        self.turn()

    def turn(self) -> None:
        self.loop.call_later(0, lambda: None)
        self.loop._turn()

    def after(self, seconds: float) -> None:
        """Time passes, and what is due in it happens, in steps of less than a period."""
        end = self.now[0] + seconds
        while self.now[0] < end:
            self.now[0] = min(end, self.now[0] + 5.0)
            self.turn()

    def heard(self) -> list[str]:
        """The kinds of what the present process was sent."""
        sock = self.theirs[-1]
        sock.setblocking(False)
        try:
            return [frame["kind"] for frame in FrameReader().feed(sock.recv(65536))]
        except BlockingIOError:
            return []

    def die(self, status: int = 9) -> None:
        self.reaper.ended.pop(self.pid)(status)


@pytest.fixture
def rig(monkeypatch: pytest.MonkeyPatch) -> Rig:
    made = Rig(monkeypatch)
    made.worker.start()
    return made


def test_one_that_is_asked_for_a_successor_makes_room_once(rig: Rig) -> None:
    rig.say(wire.Ready())
    rig.worker.restart()
    assert rig.heard() == ["Ping", "Stop"]
    rig.die(0)
    assert rig.said == ["up", "down"] and len(rig.theirs) == 2
    assert rig.worker.restarts == 0 and not rig.worker.replacing
    rig.after(2.0)
    assert not rig.killed, "the deadline was the former's"


def test_one_that_does_not_make_room_is_killed(rig: Rig) -> None:
    rig.worker.restart()
    rig.after(2.0)
    assert rig.killed == [ProcessId(rig.pid, 1.0)]


def test_nobody_is_asked_for_a_successor_while_there_is_none_or_at_the_end(rig: Rig) -> None:
    rig.die()
    rig.worker.restart()
    assert not rig.worker.replacing
    rig.after(5.0)
    assert len(rig.theirs) == 2
    rig.worker.stop()
    rig.worker.restart()
    rig.die(0)
    rig.after(60.0)
    assert rig.worker.state is ProgramState.STOPPED and len(rig.theirs) == 2


def test_the_end_comes_amid_a_pause(rig: Rig) -> None:
    rig.die()
    assert rig.worker.state is ProgramState.BACKOFF
    assert rig.worker.send(wire.Stop()) is False
    rig.worker.stop()
    rig.after(60.0)
    assert rig.worker.state is ProgramState.STOPPED and len(rig.theirs) == 1


def test_what_hangs_is_killed_after_its_last_chance(
    rig: Rig, caplog: pytest.LogCaptureFixture
) -> None:
    rig.say(wire.Ready())
    rig.after(workers.PING_EVERY * 2)
    rig.say(wire.Pong())
    assert not rig.killed
    rig.after(workers.PING_EVERY * (workers.UNANSWERED_MAX + 1))
    assert rig.killed == [ProcessId(rig.pid, 1.0)]
    assert "echo has not answered for 60 s" in caplog.text


def test_its_channel_may_end_before_it_does(rig: Rig) -> None:
    rig.theirs[-1].close()
    rig.turn()
    assert rig.killed == [ProcessId(rig.pid, 1.0)]
    rig.die(9)
    assert rig.worker.state is ProgramState.BACKOFF and rig.said == ["down"]


def test_what_it_said_before_its_end_counts(rig: Rig) -> None:
    heard: list[Any] = []
    rig.worker.on_message = heard.append
    rig.theirs[-1].sendall(encode_frame(codec.encode(wire.EndpointOnline("gpu", True))))
    rig.die(0)
    assert [type(message) for message in heard] == [wire.EndpointOnline]


def test_a_crash_loop_is_fatal_and_still_tried(
    rig: Rig, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(10):
        rig.die()
        rig.after(60.0)
    assert [r.levelno for r in caplog.records].count(logging.CRITICAL) > 1
    assert len(rig.theirs) == 11
    rig.die()
    assert rig.worker.state is ProgramState.FATAL
    rig.after(60.0)
    rig.say(wire.Ready())
    assert rig.worker.state is ProgramState.RUNNING
    rig.after(10.0)
    rig.die()
    assert rig.worker.state is ProgramState.BACKOFF, "it was stable: the count begins anew"


def test_R6_a_refused_fork_is_no_crash(rig: Rig, caplog: pytest.LogCaptureFixture) -> None:
    """Else what serves would be away for half a minute once the system has room again."""
    rig.die()
    rig.refused = 100
    for _ in range(20):
        rig.after(1.0)
    assert rig.worker.state is ProgramState.BACKOFF and rig.refused < 100
    assert caplog.text.count("cannot fork mepd: echo: [Errno 11]") == 1
    rig.refused = 0
    rig.after(1.0)
    assert rig.worker.state is ProgramState.STARTING and len(rig.theirs) == 2
