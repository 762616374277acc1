"""Audit records of a user endpoint, on real sockets and pipes."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable

import pytest

from mepd.uep.amqp import IOLoop
from mepd.uep.taskaudit import TaskAudit, record


@pytest.fixture
def loop() -> IOLoop:
    return IOLoop()


def turn(loop: IOLoop, times: int = 5) -> None:
    for _ in range(times):
        loop.call_later(0.01, loop.stop)
        loop.start()


def test_the_form_of_a_record() -> None:
    """As globus-compute-endpoint 4.19 writes it."""
    assert record("t", "f", "RECEIVED") == b"fid=f tid=t bid= RECEIVED"
    assert record("t", "f\n", "FAILED", "no\r\0") == b"fid=f  tid=t bid= FAILED - no"


def make(loop: IOLoop, fd: int, broken: Callable[[str], None] = pytest.fail) -> TaskAudit:
    return TaskAudit(loop, fd, broken)


def test_a_socket_is_waited_for(loop: IOLoop) -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    audit, done = make(loop, ours.detach()), []
    audit.note("t", "f", "RECEIVED")
    audit.note("t", "f", "EXEC_START", then=lambda: done.append(1))
    assert theirs.recv(4096).endswith(b"RECEIVED")
    theirs.send(b"+")
    turn(loop)
    assert not done
    theirs.send(b"+")
    turn(loop)
    assert done == [1]


def test_a_slow_reader_costs_no_record(loop: IOLoop) -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    audit = make(loop, ours.detach())
    for number in range(5000):
        audit.note(str(number), "f", "RECEIVED")
    theirs.settimeout(0.05)
    for number in range(5000):
        try:
            data = theirs.recv(4096)
        except TimeoutError:
            turn(loop, 1)
            data = theirs.recv(4096)
        assert data == record(str(number), "f", "RECEIVED")


def test_a_pipe_counts_as_written(loop: IOLoop) -> None:
    read, write = os.pipe2(os.O_DIRECT)
    audit, done = make(loop, write), []
    audit.note("t", "f", "EXEC_START", then=lambda: done.append(1))
    assert done == [1] and os.read(read, 4096) == record("t", "f", "EXEC_START")
    os.close(read)


@pytest.mark.parametrize("kind", ["socket", "pipe"])
def test_a_reader_that_is_gone_is_told_once_and_nothing_is_cleared(
    loop: IOLoop, kind: str
) -> None:
    reasons: list[str] = []
    cleared: list[int] = []
    if kind == "pipe":
        read, write = os.pipe2(os.O_DIRECT)
        os.close(read)
    else:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        write = ours.detach()
        theirs.close()
    audit = make(loop, write, reasons.append)
    for _ in range(3):
        audit.note("t", "f", "EXEC_START", then=lambda: cleared.append(1))
    turn(loop)
    assert len(reasons) == 1 and not cleared
