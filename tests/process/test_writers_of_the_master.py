"""The master's side of the log-writer and the audit-writer, when these fail."""

from __future__ import annotations

import json
import logging
import os
import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from mepd.master import logs
from mepd.master.logs import LogFailure, LogWriter
from mepd.master.taskaudit import AuditWriter
from mepd.posix import descriptors, process


class FakeLoop:
    """Descriptors are watched by name only; timers are the test's to call."""

    def __init__(self) -> None:
        self.watched: dict[int, tuple[Any, Any]] = {}
        self.timers: list[tuple[float, Any]] = []
        self.now = 0.0

    def clock(self) -> float:
        return self.now

    def watch(self, fd: int, readable: Any, writable: Any = None) -> None:
        self.watched[fd] = (readable, writable)

    def forget(self, fd: int) -> None:
        self.watched.pop(fd, None)

    def call_later(self, delay: float, callback: Any) -> None:
        self.timers.append((delay, callback))


class FakeReaper:
    def __init__(self) -> None:
        self.ended: dict[int, Any] = {}

    def watch(self, pid: int, callback: Any, unstoppable: bool = False) -> None:
        self.ended[pid] = callback


JUNK = [b"x", b"[]", b"7", b'{"alert": {}}', b'{"error": [1]}', b"[" * 4000, b"\xff\xfe", b"null"]


def sleeper() -> int:
    descriptors.close_all_but([0, 1, 2])
    time.sleep(600)
    return 0


class Writers:
    """Stands for the spawner: processes that say what they are told, and sleep."""

    def __init__(self) -> None:
        self.words: list[bytes] = [b'{"ready": true}']
        self.refused: list[OSError] = []
        self.theirs: list[socket.socket] = []
        self.pids: list[int] = []

    def begin(self, theirs: socket.socket) -> int:
        if self.refused:
            raise self.refused.pop()
        self.theirs.append(theirs.dup())
        for word in self.words:
            theirs.send(word)
        reader, writer = os.pipe()
        self.pids.append(process.fork(sleeper))
        os.close(writer)
        os.read(reader, 1)  # ends when the child has closed what it inherited
        os.close(reader)
        return self.pids[-1]

    def end(self) -> None:
        for pid in self.pids:
            try:
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
            except (ProcessLookupError, ChildProcessError):
                pass
        for sock in self.theirs:
            sock.close()


@pytest.fixture
def writers(monkeypatch: pytest.MonkeyPatch) -> Iterator[Writers]:
    made = Writers()
    monkeypatch.setattr(
        logs.spawner, "log_writer", lambda title, theirs, section: made.begin(theirs)
    )

    def audit_writer(*_: Any) -> tuple[int, socket.socket]:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.setblocking(False)
        try:
            return made.begin(theirs), ours
        except OSError:
            ours.close()
            raise
        finally:
            theirs.close()

    monkeypatch.setattr(logs.spawner, "audit_writer", audit_writer)
    yield made
    made.end()


def is_reaped(pid: int) -> bool:
    try:
        os.waitpid(pid, os.WNOHANG)
    except ChildProcessError:
        return True
    return False


SECTION: Any = SimpleNamespace(logfile=Path("/var/log/mepd.log"))


class TestLogWriter:
    def test_no_process_can_be_had(self, writers: Writers) -> None:
        writers.refused = [BlockingIOError(11, "Resource temporarily unavailable")]
        with pytest.raises(LogFailure, match="cannot fork the log-writer: Resource temp"):
            LogWriter(SECTION)

    def test_what_it_says_first_is_why_mepd_does_not_start(self, writers: Writers) -> None:
        writers.words = [b'{"error": "log /var/log/mepd.log: No space left on device"}']
        with pytest.raises(LogFailure, match="mepd.log: No space left on device"):
            LogWriter(SECTION)
        assert is_reaped(writers.pids[0])

    def test_it_says_nothing(self, writers: Writers, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(logs, "_BEGIN_MAX", 0.01)
        writers.words = []
        with pytest.raises(LogFailure, match="mepd.log: cannot be opened in 0.01 s"):
            LogWriter(SECTION)
        assert is_reaped(writers.pids[0])

    def test_an_alert_is_kept_and_logged_until_it_is_over(
        self, writers: Writers, caplog: pytest.LogCaptureFixture
    ) -> None:
        loop, reaper = FakeLoop(), FakeReaper()
        writer = LogWriter(SECTION)
        writer.attach(loop, reaper)  # type: ignore[arg-type]
        ((hear, _),) = loop.watched.values()
        hear()  # woken for nothing
        writers.theirs[0].send(b'{"alert": "disk full"}')
        hear()
        assert writer.alert == "disk full" and "disk full" in caplog.text
        writers.theirs[0].send(b'{"alert": ""}')
        hear()
        assert writer.alert == ""
        writer.close()

    @pytest.mark.parametrize("junk", JUNK)
    def test_one_that_says_what_none_says_is_replaced(
        self, writers: Writers, caplog: Any, junk: bytes
    ) -> None:
        loop, reaper = FakeLoop(), FakeReaper()
        writer = LogWriter(SECTION)
        writer.attach(loop, reaper)  # type: ignore[arg-type]
        ((hear, _),) = loop.watched.values()
        writers.theirs[0].send(junk)
        hear()
        status = os.waitpid(writers.pids[0], 0)[1]
        assert os.WTERMSIG(status) == signal.SIGKILL
        assert "broke the protocol" in caplog.text and not loop.watched
        reaper.ended[writers.pids[0]](status)
        writer.close()

    def test_it_is_started_again_and_loses_nothing(self, writers: Writers) -> None:
        loop, reaper = FakeLoop(), FakeReaper()
        writer = LogWriter(SECTION)
        writer.attach(loop, reaper)  # type: ignore[arg-type]
        reaper.ended[writers.pids[0]](9)
        assert not loop.watched and writer.process is None
        writer.emit(logging.makeLogRecord({"msg": "while it was away", "levelname": "INFO"}))
        writers.refused = [BlockingIOError(11, "Resource temporarily unavailable")]
        loop.timers.pop()[1]()
        assert len(writers.pids) == 1 and len(loop.timers) == 1, "refused: once more, later"
        loop.timers.pop()[1]()
        ((hear, _),) = loop.watched.values()
        hear()
        heard = [json.loads(writers.theirs[1].recv(4096))]
        assert "while it was away" in heard[0]["message"] and writer.restarts == 1
        writer.close()

    def test_R7_what_one_that_cannot_open_the_log_was_sent_waits_for_the_next(
        self, writers: Writers
    ) -> None:
        loop, reaper = FakeLoop(), FakeReaper()
        writer = LogWriter(SECTION)
        writer.attach(loop, reaper)  # type: ignore[arg-type]
        writers.words = [b'{"error": "log mepd.log: Read-only file system"}']
        reaper.ended[writers.pids[0]](9)
        writer.emit(logging.makeLogRecord({"msg": "while it was away", "levelname": "INFO"}))
        loop.timers.pop()[1]()
        reaper.ended[writers.pids[1]](73 << 8)
        assert "Read-only file system" in writer.alert
        writers.words = [b'{"ready": true}']
        loop.timers.pop()[1]()
        ((hear, _),) = loop.watched.values()
        hear()
        assert "while it was away" in json.loads(writers.theirs[2].recv(4096))["message"]
        assert writer.alert == "" and writer.lost == 0
        writer.close()

    def test_what_cannot_be_logged_ends_nothing(self, writers: Writers) -> None:
        writer = LogWriter(SECTION)

        class Hostile:
            def __str__(self) -> str:
                raise ValueError("no text")

        writer.emit(logging.makeLogRecord({"msg": Hostile()}))
        assert writer.lost == 1
        writer.close()

    def test_a_file_too_large_to_publish(self, writers: Writers, caplog: Any) -> None:
        writer = LogWriter(SECTION)
        writer.publish(Path("/run/mepd.prom"), "x" * 300_000)
        assert "/run/mepd.prom is not written" in caplog.text
        writer.publish(Path("/run/mepd.prom"), "small")
        assert json.loads(writers.theirs[0].recv(4096))["publish"] == "small"
        writer.close()

    def test_what_was_not_taken_before_the_loop_goes_by_the_loop(self, writers: Writers) -> None:
        writer = LogWriter(SECTION)
        record = logging.makeLogRecord({"msg": "x" * 4000, "levelname": "INFO"})
        while not writer._waiting:
            writer.emit(record)
        writer.publish(Path("/run/mepd.prom"), "first")
        writer.publish(Path("/run/mepd.prom"), "newest")
        loop = FakeLoop()
        writer.attach(loop, FakeReaper())  # type: ignore[arg-type]
        ((_, flush),) = loop.watched.values()
        assert flush is not None
        writers.theirs[0].setblocking(False)
        published: list[str] = []
        while not published:
            packet = json.loads(writers.theirs[0].recv(1 << 20))
            published += [packet["publish"]] if "publish" in packet else []
            flush()
        assert published == ["newest"] and writer.lost == 0
        ((_, flush),) = loop.watched.values()
        assert flush is None
        writer.close()

    def test_an_end_after_the_last_word_starts_nothing(self, writers: Writers) -> None:
        loop, reaper = FakeLoop(), FakeReaper()
        writer = LogWriter(SECTION)
        writer.attach(loop, reaper)  # type: ignore[arg-type]
        reaper.ended[writers.pids[0]](9)
        writer.close()
        loop.timers.pop()[1]()
        assert len(writers.pids) == 1 and not loop.timers
        reaper.ended[writers.pids[0]](9)
        assert not loop.timers

    def test_an_alert_that_is_over_is_not_logged(
        self, writers: Writers, caplog: pytest.LogCaptureFixture
    ) -> None:
        loop = FakeLoop()
        writer = LogWriter(SECTION)
        writer.attach(loop, FakeReaper())  # type: ignore[arg-type]
        ((hear, _),) = loop.watched.values()
        for word in (b'{"alert": "disk full"}', b'{"alert": ""}'):
            writers.theirs[0].send(word)
            hear()
        assert writer.alert == "" and caplog.text.count("disk full") == 1
        assert len(caplog.records) == 1
        writer.close()

    def test_one_that_does_not_end_is_killed(
        self, writers: Writers, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(logs, "_END_MAX", 0.01)
        writer = LogWriter(SECTION)
        writer.close()
        _, status = os.waitpid(writers.pids[0], 0)
        assert os.WTERMSIG(status) == signal.SIGKILL
        writer.close()


class AuditRig:
    def __init__(self) -> None:
        self.loop, self.reaper = FakeLoop(), FakeReaper()
        given: Any = (self.loop, self.reaper, None, Path("/var/log/audit.log"), "id", list)
        self.writer = AuditWriter(*given)

    def hear(self) -> None:
        ((hear, _),) = self.loop.watched.values()
        hear()


class TestAuditWriter:
    def test_no_process_can_be_had(self, writers: Writers, caplog: Any) -> None:
        writers.refused = [BlockingIOError(11, "Resource temporarily unavailable")]
        rig = AuditRig()
        assert rig.writer.failure == "cannot fork: Resource temporarily unavailable"
        assert "no task of its endpoint runs" in caplog.text
        rig.loop.timers.pop()[1]()
        rig.hear()
        assert rig.writer.failure == "" and "can be written again" in caplog.text

    def test_what_it_says_of_its_log(self, writers: Writers, caplog: Any) -> None:
        writers.words = []
        rig = AuditRig()
        rig.hear()  # woken for nothing
        assert rig.writer.failure == ""
        for word, failure in (
            (b'{"error": "No space left on device"}', "No space left on device"),
            (b'{"ready": true}', ""),
            (b'{"alert": "disk full"}', "disk full"),
        ):
            writers.theirs[0].send(word)
            rig.hear()
            assert rig.writer.failure == failure
        assert caplog.text.count("cannot be written") == 2
        writers.theirs[0].close()
        rig.hear()
        assert not rig.loop.watched, "its end is told by the reaper"

    @pytest.mark.parametrize("junk", JUNK)
    def test_one_that_says_what_none_says_is_replaced(
        self, writers: Writers, caplog: Any, junk: bytes
    ) -> None:
        """It reads what users' programs write, and may be theirs by then."""
        rig = AuditRig()
        rig.hear()
        writers.theirs[0].send(junk)
        rig.hear()
        status = os.waitpid(writers.pids[0], 0)[1]
        assert os.WTERMSIG(status) == signal.SIGKILL and not rig.loop.watched
        assert "broke the protocol" in caplog.text
        rig.reaper.ended[writers.pids[0]](status)
        rig.loop.timers.pop()[1]()
        assert len(writers.pids) == 2

    def test_one_that_speaks_without_end_is_replaced(self, writers: Writers, caplog: Any) -> None:
        rig = AuditRig()
        rig.hear()
        for n in range(200):
            if not rig.loop.watched:
                break
            writers.theirs[0].send(json.dumps({"alert": str(n)}).encode())
            rig.hear()
        assert os.WTERMSIG(os.waitpid(writers.pids[0], 0)[1]) == signal.SIGKILL
        assert caplog.text.count("cannot be written") < 110

    def test_its_last_word_is_heard_and_it_is_started_again(
        self, writers: Writers, caplog: Any
    ) -> None:
        rig = AuditRig()
        rig.hear()
        writers.theirs[0].send(b'{"error": "is a folder"}')
        rig.reaper.ended[writers.pids[0]](1 << 8)
        assert rig.writer.failure == "is a folder" and rig.writer.process is None
        rig.loop.now = 100.0
        delay, again = rig.loop.timers.pop()
        again()
        rig.hear()
        assert rig.writer.failure == ""
        rig.loop.now = 200.0
        rig.reaper.ended[writers.pids[1]](0)
        assert rig.loop.timers.pop()[0] <= delay, "it was stable: the pause does not grow"

    def test_reopening_replaces_it_without_a_pause(self, writers: Writers) -> None:
        rig = AuditRig()
        rig.writer.reopen()
        assert json.loads(writers.theirs[0].recv(4096)) == {"stop": True}
        rig.reaper.ended[writers.pids[0]](0)
        assert len(writers.pids) == 2 and not rig.loop.timers
        rig.writer.close()
        rig.reaper.ended[writers.pids[1]](0)
        assert len(writers.pids) == 2 and not rig.loop.timers

    def test_one_that_does_not_take_its_stop_is_killed(self, writers: Writers) -> None:
        rig = AuditRig()
        writers.theirs[0].close()
        rig.writer.close()
        _, status = os.waitpid(writers.pids[0], 0)
        assert os.WTERMSIG(status) == signal.SIGKILL

    def test_a_pause_that_is_over_after_the_end_starts_nothing(self, writers: Writers) -> None:
        rig = AuditRig()
        rig.reaper.ended[writers.pids[0]](0)
        rig.writer.close()
        rig.loop.timers.pop()[1]()
        assert len(writers.pids) == 1

    def test_nothing_is_asked_of_one_that_is_away(self, writers: Writers) -> None:
        rig = AuditRig()
        rig.reaper.ended[writers.pids[0]](0)
        rig.writer.reopen()
        rig.writer.add(SimpleNamespace(audit=None))  # type: ignore[arg-type]
        (again,) = rig.loop.timers
        again[1]()
        with pytest.raises(BlockingIOError):
            writers.theirs[1].recv(4096, socket.MSG_DONTWAIT)
        assert len(writers.pids) == 2, "the next has opened its log anew by itself"

    def test_a_uep_that_has_ended_before_its_turn_is_passed_over(self, writers: Writers) -> None:
        rig = AuditRig()
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        request = SimpleNamespace(uep_id="ab12")
        about = {"uid": 1000, "process": SimpleNamespace(pid=7), "request": request}
        rig.writer._waiting.append(SimpleNamespace(audit=None))  # type: ignore[arg-type]
        rig.writer.add(SimpleNamespace(audit=ours, **about))  # type: ignore[arg-type]
        packet, fds, _, _ = socket.recv_fds(writers.theirs[0], 4096, 4)
        assert json.loads(packet) == {"uid": 1000, "pid": 7, "uep": "ab12"} and len(fds) == 1
        os.close(fds[0])
        for end in (ours, theirs):
            end.close()

    def test_an_end_that_is_told_twice_is_one(self, writers: Writers) -> None:
        rig = AuditRig()
        rig.writer.close()
        for _ in range(2):
            rig.reaper.ended[writers.pids[0]](0)
        assert rig.writer.process is None and not rig.loop.timers
