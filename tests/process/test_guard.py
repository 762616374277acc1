"""The guard of a tree: what it reaps meanwhile, when it gives up, how it leaves."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import socket
import time
from collections.abc import Callable

import pytest

from mepd.posix import guard, process, rlimits, syscalls
from mepd.posix.ended import has_ended
from tests.conftest import is_gone, need_root, wait_for


def watched(
    tree: Callable[[], int], ends: tuple[socket.socket, socket.socket], at_end: Callable[[], object]
) -> int:
    """A guard of ``tree`` in a process of its own, which leaves with the sort of its end."""
    me = os.getpid()
    ours, lifeline = ends

    def run() -> int:
        ours.close()
        watcher = guard.Guard(me)
        status = watcher.watch(process.fork(tree), lifeline, at_end=at_end)
        if os.WIFSIGNALED(status):
            return 100 + os.WTERMSIG(status)
        return os.waitstatus_to_exitcode(status)

    return process.fork(run)


def code(pid: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def test_an_orphan_is_reaped_and_its_end_is_not_taken_for_the_trees() -> None:
    ends = ours, theirs = socket.socketpair()
    reader, writer = os.pipe()

    def orphan() -> int:
        os.write(writer, b"%d\n" % os.getpid())
        return 3

    def tree() -> int:
        def middle() -> int:
            process.fork(orphan)
            return 0

        os.waitpid(process.fork(middle), 0)
        daemon = int(os.read(reader, 32))
        wait_for(lambda: is_gone(daemon), 10, "the orphan's burial")
        return 7

    assert code(watched(tree, ends, lambda: None)) == 7
    for fd in (reader, writer):
        os.close(fd)
    ours.close()
    theirs.close()


def test_words_on_the_lifeline_are_not_its_end() -> None:
    ends = ours, theirs = socket.socketpair()
    reader, writer = os.pipe()
    told, tell = os.pipe()

    def tree() -> int:
        os.write(writer, b"u")
        time.sleep(60)
        return 0

    pid = watched(tree, ends, lambda: os.write(tell, b"over"))
    theirs.close()
    assert os.read(reader, 1) == b"u"
    ours.send(b"a word")
    os.kill(pid, signal.SIGCONT)  # what a stopped parent's child is woken up with
    ours.close()
    assert code(pid) == 100 + signal.SIGKILL
    assert os.read(told, 10) == b"over"
    for fd in (reader, writer, told, tell):
        os.close(fd)


def test_R1_a_tracer_that_does_not_wait_holds_up_nobody() -> None:
    """ptrace(2): the end of a tracee is its tracer's to see first."""
    need_root()
    ends = ours, theirs = socket.socketpair()
    reader, writer = os.pipe()

    def tree() -> int:
        me = os.getpid()
        os.setresuid(65534, 65534, 65534)
        ctypes.CDLL(None).prctl(4, 1, 0, 0, 0)  # PR_SET_DUMPABLE: to be traced

        def tracer() -> int:
            seized = ctypes.CDLL(None).ptrace(0x4206, me, None, None)  # PTRACE_SEIZE
            os.write(writer, b"%d\n" % (os.getpid() if seized == 0 else 0))
            time.sleep(60)
            return 0

        def middle() -> int:
            process.fork(tracer)
            return 0

        os.waitpid(process.fork(middle), 0)
        time.sleep(60)
        return 0

    pid = watched(tree, ends, lambda: None)
    theirs.close()
    tracer = int(os.read(reader, 32))
    assert tracer
    ours.close()
    try:
        wait_for(lambda: has_ended(pid), 5, "the guard's end")
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(tracer, signal.SIGKILL)
    assert code(pid) == 100 + signal.SIGKILL
    for fd in (reader, writer):
        os.close(fd)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL, signal.SIGSEGV])
def test_a_signal_that_does_not_end_it_is_an_error(
    monkeypatch: pytest.MonkeyPatch, number: signal.Signals
) -> None:
    done: list[tuple[object, ...]] = []
    monkeypatch.setattr(rlimits, "no_core_dumps", lambda: done.append(("no core",)))
    monkeypatch.setattr(syscalls, "set_not_dumpable", lambda: done.append(("nor to a program",)))
    monkeypatch.setattr(signal, "signal", lambda *words: done.append(("signal", *words)))
    monkeypatch.setattr(os, "kill", lambda *words: done.append(("kill", *words)))
    assert guard.leave_like(int(number)) == 1
    default = [] if number == signal.SIGKILL else [("signal", number, signal.SIG_DFL)]
    assert done == [*default, ("no core",), ("nor to a program",), ("kill", os.getpid(), number)]


def test_R1_orphans_without_end_do_not_hide_the_lifelines_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Many that fork and exit are there as fast as they are waited for."""
    ends = ours, theirs = socket.socketpair()
    found = os.waitid

    def one_more(kind: int, pid: int, how: int) -> object:
        if kind == os.P_ALL:
            orphan = process.fork(lambda: 0)
            return found(os.P_PID, orphan, os.WEXITED | os.WNOWAIT)
        return found(kind, pid, how)

    monkeypatch.setattr(os, "waitid", one_more)
    monkeypatch.setattr(guard, "_TURN_MAX", 20, raising=False)

    def asleep() -> int:
        time.sleep(60)
        return 0

    pid = watched(asleep, ends, lambda: None)
    monkeypatch.undo()
    theirs.close()
    ours.close()
    try:
        wait_for(lambda: has_ended(pid), 5, "the guard's end")
    except BaseException:
        process.kill_tree(process.identify(pid))  # type: ignore[arg-type]
        raise
    assert code(pid) == 100 + signal.SIGKILL
