"""Thin system calls: what they make of an error, and of the end of somebody else."""

from __future__ import annotations

import errno
import os
import signal
import socket
import struct
import threading
from typing import Any

import pytest

from mepd.posix import guard, notify, peer, process, threads


class Connection:
    """getsockopt(2) of a socket whose peer is in very many groups."""

    def __init__(self, fault: int) -> None:
        self.fault = fault

    def getsockopt(self, level: int, option: int, size: int) -> bytes:
        if option == socket.SO_PEERCRED:
            return struct.pack("iII", 7, 1000, 100)
        raise OSError(self.fault, os.strerror(self.fault))


def test_a_peer_of_too_many_groups_has_its_first_only() -> None:
    found = peer.peer_of(Connection(errno.ERANGE))  # type: ignore[arg-type]
    assert found == peer.Peer(7, 1000, 100, ())
    with pytest.raises(OSError, match="Bad file"):
        peer.peer_of(Connection(errno.EBADF))  # type: ignore[arg-type]


def test_the_peer_of_a_pair_is_this_process() -> None:
    one, two = socket.socketpair()
    found = peer.peer_of(one)
    assert (found.pid, found.uid, found.gid) == (os.getpid(), os.getuid(), os.getgid())
    assert set(found.groups) == set(os.getgroups())
    one.close()
    two.close()


def test_an_exception_for_another_thread() -> None:
    begun, ended = threading.Event(), threading.Event()
    caught: list[BaseException] = []

    def work() -> None:
        try:
            begun.set()
            while not ended.wait(0.001):
                pass
        except TimeoutError as e:
            caught.append(e)

    thread = threading.Thread(target=work)
    thread.start()
    begun.wait()
    assert thread.ident is not None
    threads.raise_in(thread.ident, TimeoutError)
    thread.join(20)
    ended.set()
    assert not thread.is_alive() and len(caught) == 1


class TestGuard:
    def test_the_lifelines_end(self) -> None:
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        assert not guard._ended(ours)
        theirs.send(b"x")
        assert not guard._ended(ours)
        theirs.close()
        assert guard._ended(ours)
        ours.close()
        assert guard._ended(ours), "a lifeline that cannot be read is none"

    @pytest.mark.parametrize("code", [0, 1, 78, 255])
    def test_it_leaves_with_the_childs_code(self, code: int) -> None:
        assert guard.leave_like(code << 8) == code

    @pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL, signal.SIGABRT])
    def test_it_leaves_by_the_childs_signal(self, number: int) -> None:
        pid = process.fork(lambda: guard.leave_like(number))
        _, status = os.waitpid(pid, 0)
        assert os.WIFSIGNALED(status) and os.WTERMSIG(status) == number
        assert not os.WCOREDUMP(status)

    def test_signals_reach_the_child_as_the_program_wants_them(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        sent: list[tuple[int, int]] = []

        def kill(pid: int, number: int) -> None:
            sent.append((pid, number))
            if number == signal.SIGUSR1:
                raise ProcessLookupError

        monkeypatch.setattr(os, "kill", kill)
        numbers = bytes([signal.SIGTERM, signal.SIGCHLD, signal.SIGHUP, signal.SIGUSR1,
                         signal.SIGINT])  # fmt: skip
        guard._forward(numbers, 7, signal.SIGQUIT)
        wanted = [signal.SIGQUIT, signal.SIGHUP, signal.SIGUSR1, signal.SIGQUIT]
        assert sent == [(7, number) for number in wanted]


def test_an_orphan_that_somebody_else_reaped(monkeypatch: pytest.MonkeyPatch) -> None:
    pid = process.fork(lambda: 0)
    os.waitpid(pid, 0)
    guard.reap_orphan(pid)
    with pytest.raises(ChildProcessError):
        os.waitpid(pid, 0)


@pytest.mark.parametrize(
    ("code", "wanted"), [(3, 3), (SystemExit(4), 4), (SystemExit("text"), 70), (ValueError(), 70)]
)
def test_how_a_forked_child_leaves(code: Any, wanted: int, capfd: Any) -> None:
    def child() -> int:
        if isinstance(code, BaseException):
            raise code
        return int(code)

    _, status = os.waitpid(process.fork(child), 0)
    assert os.waitstatus_to_exitcode(status) == wanted
    assert ("ValueError" in capfd.readouterr().err) == isinstance(code, ValueError)


def test_a_fork_that_is_refused_leaves_the_signals_as_they_were(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refused() -> int:
        raise BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")

    before = signal.pthread_sigmask(signal.SIG_BLOCK, [])
    monkeypatch.setattr(os, "fork", refused)
    with pytest.raises(BlockingIOError):
        process.fork(lambda: 0)
    assert signal.pthread_sigmask(signal.SIG_BLOCK, []) == before


def test_a_reload_is_told_with_its_time() -> None:
    name = f"@mepd-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind("\0" + name[1:])
        notifier = notify.Notifier({"NOTIFY_SOCKET": name})
        notifier.reloading()
        first, second = manager.recv(4096).decode().split("\n")
    assert first == "RELOADING=1" and second.startswith("MONOTONIC_USEC=")
    assert second.partition("=")[2].isdigit()
