"""Thin system calls: what they make of an error, and of the end of somebody else."""

from __future__ import annotations

import ctypes
import errno
import os
import signal
import socket
import struct
import threading
from typing import Any

import pytest

from mepd.posix import (
    accounts,
    daemon,
    descriptors,
    guard,
    memory,
    notify,
    peer,
    process,
    syscalls,
    threads,
)


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


class TestNobodyThere:
    """Processes that end between two looks at them."""

    def test_no_roots_have_no_trees(self) -> None:
        assert process.trees([]) == []

    def test_the_whole_of_each_tree_is_killed(self) -> None:
        pids = [process.fork(lambda: signal.pause() or 0) for _ in range(2)]
        found = [process.identify(pid) for pid in pids]
        process.kill_all(one for one in found if one is not None)
        for pid in pids:
            assert os.WTERMSIG(os.waitpid(pid, 0)[1]) == signal.SIGKILL

    def test_one_that_ends_before_its_signal(self, monkeypatch: pytest.MonkeyPatch) -> None:
        me = process.identify(os.getpid())
        assert me is not None

        def gone(*_: Any) -> None:
            raise ProcessLookupError

        before = os.listdir("/proc/self/fd")
        monkeypatch.setattr(signal, "pidfd_send_signal", gone)
        assert process.signal_process(me, signal.SIGTERM) is False
        monkeypatch.setattr(os, "getpgid", gone)
        assert process.signal_group(me, signal.SIGTERM) is False
        assert len(os.listdir("/proc/self/fd")) == len(before)

    def test_one_that_leads_no_group(self) -> None:
        pid = process.fork(lambda: signal.pause() or 0)
        found = process.identify(pid)
        assert found is not None and process.signal_group(found, signal.SIGKILL) is False
        os.kill(pid, signal.SIGTERM)
        assert os.WTERMSIG(os.waitpid(pid, 0)[1]) == signal.SIGTERM

    def test_a_family_that_grows_without_end_is_left_at_last(self) -> None:
        """Who is never through with stopping must not hold mepd."""
        asked: list[int] = []

        def ever_new() -> list[process.ProcessId]:
            asked.append(1)
            return [process.ProcessId(2**22 + len(asked), 0.0)]

        assert len(process.freeze(ever_new)) == len(asked) < 10_000

    def test_children_where_the_kernel_does_not_list_them(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        pid = process.fork(lambda: signal.pause() or 0)
        real = open

        def without(path: Any, *words: Any, **more: Any) -> Any:
            if str(path).endswith("/children"):
                raise FileNotFoundError(path)
            return real(path, *words, **more)

        monkeypatch.setattr("builtins.open", without)
        found = process.children()
        monkeypatch.undo()
        assert pid in found and set(found) == set(process.children())
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def test_a_forked_child_begins_with_all_signals_blocked(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that none is taken by its parent's handlers."""
    blocked: list[set[int]] = []

    def live(_: Any) -> None:
        blocked.append(signal.pthread_sigmask(signal.SIG_BLOCK, []))
        raise InterruptedError("the child would have left")

    before = signal.pthread_sigmask(signal.SIG_BLOCK, [])
    monkeypatch.setattr(os, "fork", lambda: 0)
    monkeypatch.setattr(process, "_live", live)
    try:
        with pytest.raises(InterruptedError):
            process.fork(lambda: 0)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    assert {signal.SIGTERM, signal.SIGINT, signal.SIGCHLD, signal.SIGHUP} <= blocked[0]


def test_what_capset_refuses_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: Any) -> int:
        ctypes.set_errno(errno.EPERM)
        return -1

    class Libc:
        capset = staticmethod(refused)
        prctl = staticmethod(lambda *_: 0)

    monkeypatch.setattr(syscalls, "_libc", Libc)
    with pytest.raises(OSError, match="capset") as caught:
        syscalls.capset_none()
    assert caught.value.errno == errno.EPERM


@pytest.mark.parametrize("last", [3, 63, 64])
def test_the_bounding_set_is_emptied_to_its_last(
    monkeypatch: pytest.MonkeyPatch, last: int
) -> None:
    """A kernel knows as many capabilities as it knows; those beyond are no error."""
    left = set(range(0, last, 2))

    def prctl(option: int, cap: int = 0, *_: int) -> int:
        if cap >= last:
            raise OSError(errno.EINVAL, "Invalid argument")
        if option == syscalls.PR_CAPBSET_DROP:
            left.remove(cap)
        return int(cap in left)

    monkeypatch.setattr(syscalls, "prctl", prctl)
    syscalls.drop_bounding_set()
    assert not left


def test_ids_that_are_not_the_accounts_are_no_drop(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every way back is refused, and still one id is another's."""

    def refused(*_: Any) -> None:
        raise PermissionError

    for name in ("setuid", "seteuid", "setresuid", "setgid", "setegid", "setresgid", "setgroups"):
        monkeypatch.setattr(os, name, refused)
    account = accounts.Account("harper", 1000, 1000, "", "/", "/bin/sh")
    monkeypatch.setattr(os, "getresgid", lambda: (1000, 1000, 1000))
    monkeypatch.setattr(os, "getresuid", lambda: (1000, 1000, 1000))
    accounts.prove_irreversible(account, 0, 0)
    monkeypatch.setattr(os, "getresuid", lambda: (1000, 1000, 0))
    with pytest.raises(PermissionError, match="not the account's"):
        accounts.prove_irreversible(account, 0, 0)


def test_groups_by_their_names() -> None:
    assert accounts.group_id("root") == 0
    with pytest.raises(KeyError):
        accounts.group_id("no-such-group")


def test_stdio_is_closed_and_dev_null_takes_its_place() -> None:
    def child() -> int:
        os.closerange(0, 3)
        descriptors.null_stdio()  # /dev/null itself becomes 0
        null = os.stat(os.devnull).st_rdev
        return int(descriptors.open_descriptors()[:3] != [0, 1, 2]) + sum(
            os.fstat(fd).st_rdev != null for fd in range(3)
        )

    assert os.waitstatus_to_exitcode(os.waitpid(process.fork(child), 0)[1]) == 0


class Exited(Exception):
    """os._exit(2) of a test: what would run afterwards does not."""


class TestDaemonize:
    @pytest.fixture
    def left(self, monkeypatch: pytest.MonkeyPatch) -> list[int]:
        codes: list[int] = []

        def leave(code: int) -> None:
            codes.append(code)
            raise Exited

        monkeypatch.setattr(os, "_exit", leave)
        return codes

    @pytest.mark.parametrize(
        ("word", "code"), [(b"\0", 0), (b"\x4emepd.conf: line 3", 78), (b"", 70)]
    )
    def test_the_starter_leaves_with_the_daemons_word(
        self, monkeypatch: pytest.MonkeyPatch, left: list[int], capfd: Any, word: bytes, code: int
    ) -> None:
        real, ends = os.pipe2, []

        def pipe2(flags: int) -> tuple[int, int]:
            reader, writer = real(flags)
            os.write(writer, word)  # the daemon's, by the time that it is read
            ends.append(reader)
            return reader, writer

        monkeypatch.setattr(os, "pipe2", pipe2)
        monkeypatch.setattr(os, "fork", lambda: 7)
        with pytest.raises(Exited):
            daemon.daemonize()
        os.close(ends[0])
        assert left == [code] and capfd.readouterr().err == word[1:].decode()

    def test_the_daemon_is_the_second_child(
        self, monkeypatch: pytest.MonkeyPatch, left: list[int]
    ) -> None:
        done: list[object] = []
        monkeypatch.setattr(os, "fork", lambda: 0)
        monkeypatch.setattr(os, "setsid", lambda: done.append("setsid"))
        monkeypatch.setattr(os, "chdir", done.append)
        monkeypatch.setattr(os, "umask", done.append)
        monkeypatch.setattr(descriptors, "null_stdio", lambda: done.append("null"))
        ready = daemon.daemonize()
        assert done == ["setsid", "/", 0o022, "null"] and not left
        os.close(ready._fd)

    def test_the_first_child_leaves_at_once(
        self, monkeypatch: pytest.MonkeyPatch, left: list[int]
    ) -> None:
        pids = [0, 7]
        monkeypatch.setattr(os, "fork", lambda: pids.pop(0))
        monkeypatch.setattr(os, "setsid", lambda: None)
        with pytest.raises(Exited):
            daemon.daemonize()
        assert left == [0] and not pids


def _resident() -> int:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def test_large_blocks_go_back_to_the_kernel() -> None:
    """Without it, a freed one raises the bound, and smaller ones in between keep a heap."""
    assert memory.give_back_large_blocks()
    before = _resident()
    del bytearray(b"x" * (30 << 20))[:]
    kept = []
    large = []
    for _ in range(20):
        large.append(bytearray(b"x" * (10 << 20)))
        kept.append(bytearray(b"x" * 100_000))
    assert _resident() - before > 150 << 20
    large.clear()
    assert _resident() - before < 50 << 20


def test_a_c_library_without_mallopt(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory.ctypes, "CDLL", lambda _name: object())
    assert not memory.give_back_large_blocks()
