"""Loop, channels, stopping and the check before the start, where something is refused."""

from __future__ import annotations

import errno
import logging
import os
import signal
import socket
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from mepd.errors import ConfigError, WireError
from mepd.master import channel as channels
from mepd.master import precheck, stopping
from mepd.master.channel import Channel
from mepd.master.ends import Ends
from mepd.master.loop import Loop
from mepd.master.stopping import Stopper
from mepd.master.table import Uep, UepTable
from mepd.model import StartRequest, UepState
from mepd.posix.accounts import Account
from mepd.posix.process import ProcessId
from mepd.wire import codec, framing
from mepd.wire.worker import Ready, Validated

MEP = "4ade0000-0000-4000-8000-000000000001"


def uep(**keys: Any) -> Uep:
    request = StartRequest(f"uep.{MEP}.ab12", MEP, "ab12", "e", "harper", (), 0, {})
    nobody = ProcessId(2**22 + 7, 0.0)
    given: dict[str, Any] = {"state": UepState.RUNNING, **keys}
    return Uep(request.name, "gpu", request, nobody, nobody, "c", 0.0, user="harper", **given)


# --- the loop ---------------------------------------------------------------------------
def test_what_is_watched_for_nothing_is_forgotten() -> None:
    loop, seen = Loop(), []
    ours, theirs = socket.socketpair()
    theirs.send(b"x")
    loop.watch(ours.fileno(), lambda: seen.append(1))
    loop.watch(ours.fileno(), None)
    loop.call_later(0, loop.stop)
    loop.run()
    assert not seen
    loop.forget(ours.fileno())
    for end in (ours, theirs):
        end.close()


def test_a_wakeup_that_another_turn_has_read_already() -> None:
    loop = Loop()
    loop._on_wakeup()
    loop.call_later(0, loop.stop)
    loop.run()


# --- channels ---------------------------------------------------------------------------
class Peer:
    def __init__(self, **keys: Any) -> None:
        self.loop = Loop()
        self.frames: list[Any] = []
        self.reasons: list[str] = []
        ours, self.theirs = socket.socketpair()
        self.channel = Channel(
            self.loop, ours, self.frames.append, self.reasons.append, **keys
        )


@pytest.fixture
def peer() -> Iterator[Peer]:
    made = Peer()
    yield made
    made.channel.close()
    made.theirs.close()


def test_words_for_one_that_is_gone_are_dropped(peer: Peer) -> None:
    peer.channel.close()
    peer.channel.close()
    peer.channel.send({"a": 1})
    peer.channel.finish()
    peer.channel.drain()
    assert not peer.channel.is_open and peer.channel.unsent == 0 and not peer.reasons


def test_one_that_never_reads_is_left(peer: Peer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(channels, "_PENDING_MAX", 400_000)
    while peer.channel.is_open:
        peer.channel.send("x" * 30_000)
    assert peer.reasons == ["the peer does not read"]


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        (ConnectionResetError(errno.ECONNRESET, "reset"), ""),
        (OSError(errno.EIO, "Input/output error"), "Input/output error"),
    ],
)
def test_a_read_that_fails(peer: Peer, fault: OSError, reason: str) -> None:
    real = peer.channel._sock
    assert real is not None

    def recv(size: int) -> bytes:
        raise fault

    peer.channel._sock = SimpleNamespace(  # type: ignore[assignment]
        recv=recv, close=real.close, fileno=real.fileno
    )
    peer.channel._read()
    assert len(peer.reasons) == 1 and reason in peer.reasons[0] and not peer.channel.is_open


def test_a_peer_that_has_gone_breaks_no_protocol(peer: Peer) -> None:
    peer.theirs.close()
    peer.channel.send({"a": 1})
    assert peer.reasons == [""] and not peer.channel.is_open


def test_a_write_that_fails_is_its_end(peer: Peer) -> None:
    real = peer.channel._sock
    assert real is not None

    def send(data: bytes) -> int:
        raise OSError(errno.EIO, "Input/output error")

    peer.channel._sock = SimpleNamespace(  # type: ignore[assignment]
        send=send, close=real.close, fileno=real.fileno
    )
    peer.channel.send({"a": 1})
    (reason,) = peer.reasons
    assert "Input/output error" in reason and not peer.channel.is_open


def test_last_words_are_heard_after_a_write_that_fails(peer: Peer) -> None:
    peer.theirs.sendall(framing.encode_frame("why"))
    peer.theirs.close()
    peer.channel.send({"a": 1})
    assert peer.channel.is_open and not peer.reasons
    peer.channel.drain()
    assert (peer.frames, peer.reasons) == (["why"], [""]) and not peer.channel.is_open


def test_frames_after_its_close_are_not_handled() -> None:
    peer = Peer()
    peer.channel._on_frame = lambda frame: (peer.frames.append(frame), peer.channel.close())
    peer.theirs.sendall(framing.encode_frame(1) + framing.encode_frame(2))
    peer.channel._read()
    assert peer.frames == [1] and not peer.reasons
    peer.theirs.close()


def test_a_last_word_for_one_that_speaks_nonsense() -> None:
    peer = Peer(last_word=lambda reason: {"error": reason})
    peer.theirs.sendall((5).to_bytes(4, "big") + b"no js")
    peer.channel._read()
    (said,) = framing.FrameReader().feed(peer.theirs.recv(65536))
    assert "error" in said and len(peer.reasons) == 1
    peer.theirs.close()


# --- stopping and ends ------------------------------------------------------------------
def test_who_is_stopping_gets_no_second_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[int] = []
    killed: list[Any] = []
    monkeypatch.setattr(stopping.process, "signal_process", lambda _, number: sent.append(number))
    monkeypatch.setattr(stopping.process, "kill_all", killed.extend)
    now = [0.0]
    loop, one = Loop(lambda: now[0]), uep()
    table = UepTable()
    table.add(one)
    stopper = Stopper(loop, table, 10.0)
    stopper.stop(one, "idle", signal.SIGTERM)
    now[0] = 9.0
    stopper.stop(one, "mepd is shutting down", signal.SIGINT)
    assert sent == [signal.SIGTERM, signal.SIGINT] and len(one.timers) == 1
    assert one.stop_reason == "idle" and one.state is UepState.STOPPING
    now[0] = 10.5
    loop._turn()
    assert killed == [one.process]


def test_R4_all_that_do_not_stop_are_killed_together(monkeypatch: pytest.MonkeyPatch) -> None:
    """One after the other would be a look at every process for each, while nothing else goes."""
    killed: list[Any] = []
    monkeypatch.setattr(stopping.process, "kill_all", lambda found: killed.append(list(found)))
    now = [0.0]
    loop, table = Loop(lambda: now[0]), UepTable()
    ueps = [uep() for n in range(5)]
    for n, one in enumerate(ueps):
        one.name, one.process = f"u{n}", ProcessId(2**22 + n, 0.0)
        table.add(one)

    def refused(target: Any, number: int) -> bool:
        if len(killed) == 0 and target is ueps[1].process:
            raise OSError(23, "Too many open files in system")
        return True

    monkeypatch.setattr(stopping.process, "signal_process", refused)
    Stopper(loop, table, 10.0).stop_all("mepd is shutting down", signal.SIGTERM)
    table.remove(ueps[0])
    ueps[0].state = UepState.GONE
    now[0] = 10.5
    loop._turn()
    assert killed == [[one.process for one in ueps[1:]]]


def test_R4_those_whose_time_is_up_at_once_are_killed_together(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A file system that hangs makes all of them silent at the same moment."""
    killed: list[Any] = []
    monkeypatch.setattr(stopping.process, "kill_all", lambda found: killed.append(list(found)))
    monkeypatch.setattr(stopping.process, "signal_process", lambda *_: True)
    now = [0.0]
    loop, ueps = Loop(lambda: now[0]), [uep() for _ in range(5)]
    stopper = Stopper(loop, UepTable(), 10.0)
    for n, one in enumerate(ueps):
        one.process = ProcessId(2**22 + n, 0.0)
        stopper.stop(one, "hung: silent for 100 s")
    ueps[0].state = UepState.GONE
    now[0] = 10.5
    loop._turn()
    assert killed == [[one.process for one in ueps[1:]]]
    assert caplog.text.count("Forcibly killing") == 4


class Reaper:
    def __init__(self, strays: list[int]) -> None:
        self.strays, self.sessions = strays, []  # type: ignore[var-annotated]
        self.spares: Any = None
        self.on_orphan: Any = None

    def kill_strays(self, *sessions: int) -> int:
        self.sessions.append(sorted(sessions))
        return self.strays.pop(0)


def test_orphans_are_looked_for_once_at_a_time(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    now = [0.0]
    loop, reaper = Loop(lambda: now[0]), Reaper([3, 0])
    consumer: Any = None
    Ends(loop, reaper, UepTable(), consumer, lambda name: None)  # type: ignore[arg-type]
    for _ in range(5):
        reaper.on_orphan()
    now[0] = 60.0
    loop._turn()
    assert reaper.sessions == [[]]
    assert "killed orphans of user endpoints or programs: 3" in caplog.text
    caplog.clear()
    reaper.on_orphan()
    now[0] = 120.0
    loop._turn()
    assert reaper.sessions == [[], []] and not caplog.records


def test_L2_orphans_are_looked_at_once_for_all_that_end_together() -> None:
    """Orphans of an account that has a UEP are not killed: to look at many takes long."""
    now = [0.0]
    loop, reaper = Loop(lambda: now[0]), Reaper([0, 0])
    consumer: Any = None
    ends = Ends(loop, reaper, UepTable(), consumer, lambda name: None)  # type: ignore[arg-type]
    for pid in (7, 8, 9):
        ends._end_session(pid)
    loop._turn()
    assert reaper.sessions == [[7, 8, 9]]


def test_L2_looks_that_take_long_are_seldom() -> None:
    now = [0.0]

    class Slow(Reaper):
        def kill_strays(self, *sessions: int) -> int:
            now[0] += 0.1
            return super().kill_strays(*sessions)

    loop, reaper = Loop(lambda: now[0]), Slow([0, 2, 0])
    consumer: Any = None
    Ends(loop, reaper, UepTable(), consumer, lambda name: None)  # type: ignore[arg-type]
    looks = []
    for _ in range(3):
        reaper.on_orphan()
        looks.append(loop._timers[0][0] - now[0])
        now[0] = loop._timers[0][0]
        loop._turn()
    assert looks == pytest.approx([0.02, 0.9, 0.02])


def test_a_drain_hears_what_waits_to_be_handled_before_the_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A worker that is killed has said more than its share of a turn allowed to handle."""
    monkeypatch.setattr(channels, "TURN_MAX", -1.0)
    loop = Loop()
    heard: list[Any] = []
    ours, theirs = socket.socketpair()
    made = Channel(loop, ours, heard.append, lambda _reason: None)
    theirs.sendall(b"".join(framing.encode_frame(n) for n in range(9)))
    theirs.close()
    loop._turn()
    assert len(heard) < 9
    made.drain()
    assert heard == list(range(9))


def test_an_answer_that_meets_the_end_hides_none_of_the_words_before_it() -> None:
    loop = Loop()
    heard: list[Any] = []
    ours, theirs = socket.socketpair()

    def answer(frame: Any) -> None:
        heard.append(frame)
        made.send("yes")

    made = Channel(loop, ours, answer, lambda _reason: None)
    theirs.sendall(b"".join(framing.encode_frame(n) for n in range(9)))
    theirs.close()
    loop._turn()
    made.drain()
    assert heard == list(range(9))


# --- the check before the start ---------------------------------------------------------
class Checker:
    """The process that checks, as far as the test lets it answer."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, answers: bytes) -> None:
        self.ours, theirs = socket.socketpair()
        theirs.sendall(answers)
        theirs.shutdown(socket.SHUT_WR)
        self.theirs = theirs
        self.killed: list[Any] = []
        self.waited: list[int] = []
        self.stderr = os.open(os.devnull, os.O_RDONLY)
        spawned = SimpleNamespace(pid=2**22 + 9, sock=self.ours, stderr=self.stderr)
        monkeypatch.setattr(precheck.spawner, "worker", lambda *_: spawned)
        monkeypatch.setattr(precheck.process, "identify", lambda pid: None)
        monkeypatch.setattr(os, "waitpid", lambda pid, _: self.waited.append(pid))

    def check(self) -> None:
        account = Account("mepd", 999, 999, "", "/", "/bin/sh")
        try:
            precheck.check({Path("/e/gpu"): {"config.yaml": "a: 1"}}, account)
        finally:
            self.theirs.close()
            with pytest.raises(OSError):
                os.fstat(self.stderr)
            assert self.ours.fileno() == -1 and self.waited == [2**22 + 9]


def answer(error: str) -> bytes:
    return framing.encode_frame(codec.encode(Validated("start", error)))


class TestPrecheck:
    def test_an_answer_in_pieces_is_one(self, monkeypatch: pytest.MonkeyPatch) -> None:
        checker = Checker(monkeypatch, answer(""))
        monkeypatch.setattr(precheck, "_CHUNK", 3)
        checker.check()

    def test_a_fault_names_its_folder(self, monkeypatch: pytest.MonkeyPatch) -> None:
        checker = Checker(monkeypatch, answer("config.yaml: line 3: no"))
        with pytest.raises(ConfigError, match="/e/gpu/config.yaml: line 3: no"):
            checker.check()

    def test_a_word_that_is_no_answer_is_passed_over(self, monkeypatch: pytest.MonkeyPatch) -> None:
        ready = framing.encode_frame(codec.encode(Ready()))
        Checker(monkeypatch, ready + answer("")).check()

    def test_one_that_ends_without_an_answer(self, monkeypatch: pytest.MonkeyPatch) -> None:
        with pytest.raises(OSError, match="ended"):
            Checker(monkeypatch, b"\0\0").check()

    def test_one_that_says_what_nobody_says(self, monkeypatch: pytest.MonkeyPatch) -> None:
        with pytest.raises(WireError):
            Checker(monkeypatch, framing.encode_frame({"kind": "Nonsense"})).check()

    def test_R9_one_that_stands_still_does_not_keep_mepd_from_stopping(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Signals wait for the loop, which is not there yet."""
        checker = Checker(monkeypatch, b"")
        checker.theirs.close()
        checker.ours, checker.theirs = socket.socketpair()
        spawned = SimpleNamespace(pid=2**22 + 9, sock=checker.ours, stderr=checker.stderr)
        monkeypatch.setattr(precheck.spawner, "worker", lambda *_: spawned)
        pending: list[set[signal.Signals]] = [set(), {signal.SIGCHLD}, {signal.SIGTERM}]
        monkeypatch.setattr(signal, "sigpending", lambda: pending.pop(0))
        with pytest.raises(InterruptedError):
            checker.check()
        assert not pending

    def test_what_one_that_dies_has_to_say_is_told(
        self, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        checker = Checker(monkeypatch, b"")
        reader, writer = os.pipe()
        os.dup2(reader, checker.stderr)
        os.close(reader)
        os.write(writer, b"Traceback (most recent call last):\nImportError: no yaml\n\n")
        os.close(writer)
        checker.theirs.close()
        with pytest.raises(OSError):
            checker.check()
        assert "config-check did not answer: ImportError: no yaml" in caplog.text

    def test_no_folder_needs_no_process(self) -> None:
        precheck.check({}, Account("mepd", 999, 999, "", "/", "/bin/sh"))
