"""The audit-writer as a process of a master's loop; user endpoints are sockets of the test."""

from __future__ import annotations

import os
import re
import signal
import socket
import threading
import time
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from mepd.auditwriter.main import RECORD_MAX, Writer
from mepd.master.loop import Loop
from mepd.master.reaper import Reaper
from mepd.master.taskaudit import TaskAudit
from mepd.posix import accounts
from tests.conftest import is_gone

RECORD = re.compile(r"\S+T\S+[+-]\d\d:\d\d uid=1234 pid=42 uep=e1 (.*)")
SESSION = re.compile(r"\S+ uid=\d+ pid=\d+ eid=m1 (Begin CEP session =====|End CEP session -----)")


class Bench:
    """A loop with one endpoint; ``uep()`` makes a user endpoint's end of a socket."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.loop, self.reaper = Loop(), Reaper()
        self.loop.on_signal(signal.SIGCHLD, self.reaper.collect)
        self.ueps: list[Any] = []
        root = os.geteuid() == 0
        account = accounts.lookup("nobody") if root else accounts.lookup_uid(os.geteuid())
        self.audit = TaskAudit(self.loop, self.reaper, account, lambda: list(self.ueps))
        snapshot = types.SimpleNamespace(audit_log_path=path)
        self.endpoint: Any = types.SimpleNamespace(snapshot=snapshot, endpoint_id="m1")
        self.audit.begin(self.endpoint)

    def uep(self) -> socket.socket:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        uep: Any = types.SimpleNamespace(
            audit=ours, audit_path=self.path, audit_told=False, uid=1234,
            process=types.SimpleNamespace(pid=42), request=types.SimpleNamespace(uep_id="e1"),
        )  # fmt: skip
        self.ueps.append(uep)
        self.audit.watch(uep)
        theirs.settimeout(20)
        return theirs

    def until(self, condition: Callable[[], Any]) -> None:
        deadline = time.monotonic() + 60

        def look() -> None:
            if condition() or time.monotonic() > deadline:
                self.loop.stop()
            else:
                self.loop.call_later(0.01, look)

        self.loop.call_later(0.0, look)  # in the loop: one left over would stop the next run
        self.loop.run()
        assert condition()

    def records(self) -> list[str]:
        lines = self.path.read_text().splitlines() if self.path.exists() else []
        return [m[1] for line in lines if (m := RECORD.fullmatch(line))]

    def close(self) -> None:
        self.audit.close()
        self.until(lambda: not self.audit.processes())
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)


@pytest.fixture
def make() -> Iterator[Callable[[Path], Bench]]:
    made: list[Bench] = []

    def build(path: Path) -> Bench:
        made.append(Bench(path))
        return made[-1]

    yield build
    for bench in made:
        for uep in bench.ueps:
            uep.audit.close()
        bench.close()


Make = Callable[[Path], Bench]


def test_records_are_lines_with_head_and_are_answered(make: Make, tmp_path: Path) -> None:
    bench = make(tmp_path / "audit.log")
    uep = bench.uep()
    for state in ("RECEIVED", "EXEC_START", "RUNNING", "EXEC_END"):
        uep.send(f"fid=f tid=t bid= {state}".encode())
    answers = b""
    while len(answers) < 4:
        answers += uep.recv(64)
    assert answers == b"++++"
    states = ["RECEIVED", "EXEC_START", "RUNNING", "EXEC_END"]
    assert bench.records() == [f"fid=f tid=t bid= {s}" for s in states]
    assert bench.path.stat().st_mode & 0o777 == 0o600
    uep.close()
    bench.ueps.pop().audit.close()
    bench.audit.close()
    bench.until(lambda: not bench.audit.processes())
    lines = bench.path.read_text().splitlines()
    assert [m[1][:3] for x in (lines[0], lines[-1]) if (m := SESSION.fullmatch(x))] == [
        "Beg", "End",
    ]  # fmt: skip


def test_hostile_records_stay_one_capped_printable_line(make: Make, tmp_path: Path) -> None:
    bench = make(tmp_path / "audit.log")
    uep = bench.uep()
    forged = b"x\n2026-01-01T00:00:00+00:00 uid=0 pid=1 uep=e1 forged\r\x1b[2J\0\xff\xe2\x80\xa8y"
    uep.send(forged)
    uep.send(b"A" * 100_000)
    got = 0
    while got < 2:
        got += len(uep.recv(64))
    lines = bench.path.read_text(encoding="utf-8").split("\n")
    assert len(lines) == 4 and lines[3] == ""  # the first one begins the session
    assert "forged" in lines[1] and lines[1].isprintable() and " uid=1234 pid=42 " in lines[1]
    assert len(lines[2]) < RECORD_MAX + 200


def test_nothing_is_answered_while_the_log_cannot_be_written(make: Make) -> None:
    bench = make(Path("/dev/full"))
    uep = bench.uep()
    uep.send(b"fid=f tid=t bid= EXEC_START")
    bench.until(lambda: bench.audit.refusal(bench.endpoint))
    assert "No space left" in str(bench.audit.refusal(bench.endpoint))
    uep.settimeout(1.2)
    with pytest.raises(TimeoutError):
        uep.recv(1)


def test_a_log_that_cannot_be_opened_refuses_starts(make: Make, tmp_path: Path) -> None:
    (tmp_path / "dir").mkdir()
    bench = make(tmp_path / "dir")
    bench.until(lambda: bench.audit.refusal(bench.endpoint))
    assert "irectory" in str(bench.audit.refusal(bench.endpoint))
    (tmp_path / "dir").rmdir()
    bench.until(lambda: not bench.audit.refusal(bench.endpoint))


def test_a_killed_audit_writer_is_replaced_and_no_record_is_lost(
    make: Make, tmp_path: Path
) -> None:
    bench = make(tmp_path / "audit.log")
    uep = bench.uep()
    uep.send(b"one")
    assert uep.recv(64) == b"+"
    (victim,) = bench.audit.processes()
    os.kill(victim.pid, signal.SIGKILL)
    uep.send(b"two")
    bench.until(lambda: bench.records() == ["one", "two"])
    assert uep.recv(64) == b"+"


def test_a_log_that_was_moved_away_is_opened_anew(make: Make, tmp_path: Path) -> None:
    bench = make(tmp_path / "audit.log")
    uep = bench.uep()
    uep.send(b"one")
    assert uep.recv(64) == b"+"
    os.rename(bench.path, tmp_path / "audit.log.1")
    bench.audit.reopen()
    bench.until(lambda: bench.path.exists())
    uep.send(b"two")
    bench.until(lambda: bench.records() == ["two"])


class Full:
    """A log on a disk that takes no record while ``full``."""

    def __init__(self, full: bool) -> None:
        self.full = full
        self.lines: list[bytes] = []

    def write(self, line: bytes) -> None:
        if self.full and b"EXEC_START" in line:
            raise OSError(28, "No space left on device")
        self.lines.append(line)


def _life(log: Full, reading: socket.socket) -> None:
    """An audit-writer that is told to stop as soon as it has a user endpoint."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        about = b'{"uid": 1234, "pid": 42, "uep": "e1"}'
        socket.send_fds(ours, [about], [reading.fileno()])
        ours.send(b'{"stop": true}')
        file: Any = log
        Writer(theirs, file, "m1").run()


def test_a_record_that_the_log_does_not_take_is_the_next_audit_writers() -> None:
    """A full disk is when logs are moved away: the task that waits for its answer gets one."""
    reading, uep = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    uep.setblocking(False)
    with reading, uep:
        uep.send(b"fid=f tid=t bid= EXEC_START")
        _life(Full(True), reading)
        with pytest.raises(BlockingIOError):
            uep.recv(64)
        log = Full(False)
        _life(log, reading)
        assert sum(b"EXEC_START" in line for line in log.lines) == 1
        assert uep.recv(64) == b"+"


def test_the_last_records_of_one_that_read_no_answer_are_kept() -> None:
    """As globus-compute-endpoint, which never does, and any that is killed."""
    reading, uep = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with reading:
        reading.send(b"+")
        for state in ("EXEC_START", "EXEC_END"):
            uep.send(f"fid=f tid=t bid= {state}".encode())
        uep.close()
        log = Full(False)
        _life(log, reading)
        assert [line.split()[-1] for line in log.lines[1:-1]] == [b"EXEC_START", b"EXEC_END"]


def test_a_stuck_writer_never_stalls_the_master(make: Make, tmp_path: Path) -> None:
    bench = make(tmp_path / "audit.log")
    bench.until(lambda: bench.path.exists())
    (stuck,) = bench.audit.processes()
    os.kill(stuck.pid, signal.SIGSTOP)
    # who waits for it waits without end: a busy machine makes this slow, and no more
    rescue = threading.Timer(60, os.kill, (stuck.pid, signal.SIGCONT))
    rescue.start()
    made = [bench.uep() for _ in range(300)]
    for uep in made:
        uep.send(b"record")
    assert rescue.is_alive()
    rescue.cancel()
    os.kill(stuck.pid, signal.SIGCONT)
    bench.until(lambda: len(bench.records()) == 300)


def test_R1_it_ends_with_a_killed_master(tmp_path: Path) -> None:
    read, write = os.pipe()
    master = os.fork()
    if not master:
        bench = Bench(tmp_path / "audit.log")
        (child,) = bench.audit.processes()
        bench.until(lambda: bench.path.exists())
        os.write(write, str(child.pid).encode())
        signal.pause()
    os.close(write)
    child_pid = int(os.read(read, 32))
    os.kill(master, signal.SIGKILL)
    os.waitpid(master, 0)
    deadline = time.monotonic() + 4
    while not is_gone(child_pid) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert is_gone(child_pid)
