"""Forks, parents and signals, with real processes."""

from __future__ import annotations

import gc
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from psutil import _pslinux

from mepd.posix import descriptors, guard, process, syscalls
from mepd.posix.process import ProcessId
from tests.conftest import is_gone, need_root, wait_for


def forked(child: Callable[[], int]) -> int:
    return process.fork(child)


def code(pid: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def grandchild(prepare: Callable[[int], None]) -> tuple[int, int]:
    """A child that has a child which runs ``prepare(child's pid)`` and sleeps; both pids."""
    reader, writer = os.pipe()

    def middle() -> int:
        me = os.getpid()

        def leaf() -> int:
            prepare(me)
            os.write(writer, b"%d" % os.getpid())
            time.sleep(60)
            return 0

        process.fork(leaf)
        time.sleep(60)
        return 0

    pid = forked(middle)
    os.close(writer)
    leaf_pid = int(os.read(reader, 32))
    os.close(reader)
    return pid, leaf_pid


def test_T2_pdeathsig_is_lost_with_a_change_of_ids_and_set_after_it() -> None:
    need_root()

    def too_early(parent: int) -> None:
        process.die_with_parent(parent)
        os.setresgid(12345, 12345, 12345)
        os.setresuid(12345, 12345, 12345)

    def in_order(parent: int) -> None:
        os.setresgid(12345, 12345, 12345)
        os.setresuid(12345, 12345, 12345)
        process.die_with_parent(parent)

    for prepare, dies in ((too_early, False), (in_order, True)):
        middle, leaf = grandchild(prepare)
        os.kill(middle, signal.SIGKILL)
        os.waitpid(middle, 0)
        if dies:
            wait_for(lambda leaf=leaf: is_gone(leaf), 2, "the orphan's end")  # type: ignore[misc]
        else:
            time.sleep(0.2)
            assert not is_gone(leaf)
            os.kill(leaf, signal.SIGKILL)


def test_T5_a_parent_that_has_gone_already_is_noticed() -> None:
    def child() -> int:
        try:
            process.die_with_parent(os.getppid() + 1)
        except ProcessLookupError:
            return 7
        return 0

    assert code(forked(child)) == 7


def test_T4_the_fork_is_made_in_the_main_thread() -> None:
    """The kernel sends PDEATHSIG when the forking thread ends; ours is the main thread."""
    pids: list[int] = []
    refusals: list[str] = []

    def thread() -> None:
        pid = os.fork()
        if not pid:
            process.die_with_parent(os.getppid())
            time.sleep(30)
            os._exit(0)
        pids.append(pid)
        try:
            process.fork(lambda: 0)
        except RuntimeError as e:
            refusals.append(str(e))
        time.sleep(0.3)

    t = threading.Thread(target=thread)
    t.start()
    t.join()
    status = os.waitpid(pids[0], 0)[1]
    assert os.WIFSIGNALED(status)  # the trap is real: the child died with the thread
    assert refusals == ["forks are the main thread's"]


def test_T8_a_childs_signals_do_not_wake_the_parent() -> None:
    reader, writer = os.pipe2(os.O_NONBLOCK)
    old = signal.set_wakeup_fd(writer)
    handler = signal.signal(signal.SIGUSR1, lambda *_: None)
    try:
        pid = forked(lambda: time.sleep(30) or 0)  # type: ignore[func-returns-value]
        os.kill(pid, signal.SIGUSR1)
        assert code(pid) == -signal.SIGUSR1  # default disposition in the child (T10)
        with pytest.raises(BlockingIOError):
            os.read(reader, 1)
    finally:
        signal.set_wakeup_fd(old)
        signal.signal(signal.SIGUSR1, handler)
        os.close(reader)
        os.close(writer)


def test_T9_a_child_closes_descriptors_without_touching_the_selector() -> None:
    import selectors

    selector = selectors.DefaultSelector()
    ours, theirs = socket.socketpair()
    selector.register(ours, selectors.EVENT_READ)

    def child() -> int:
        descriptors.close_all_but([0, 1, 2])
        return 0

    assert code(forked(child)) == 0
    theirs.send(b"x")
    assert [key.fileobj for key, _ in selector.select(2)] == [ours]
    for each in (selector, ours, theirs):
        each.close()


def test_T10_signal_right_after_the_fork_kills_the_child() -> None:
    handler = signal.signal(signal.SIGTERM, lambda *_: None)
    try:
        for _ in range(20):
            pid = forked(lambda: time.sleep(30) or 0)  # type: ignore[func-returns-value]
            os.kill(pid, signal.SIGTERM)
            assert code(pid) == -signal.SIGTERM
    finally:
        signal.signal(signal.SIGTERM, handler)


def test_T11_the_reaper_leaves_others_children_to_their_popen() -> None:
    """A wait by pid only: the failure of a child that somebody else waits for is seen."""
    from mepd.master.reaper import Reaper

    reaper = Reaper()
    seen: list[int] = []
    pid = forked(lambda: 3)
    reaper.watch(pid, seen.append)
    wait_for(lambda: is_gone(pid), 5)
    reaper.collect()
    assert [os.waitstatus_to_exitcode(s) for s in seen] == [3]
    # And the launch child's mapper runs where no reaper is:
    failing = subprocess.Popen(["false"])
    assert failing.wait() == 1


def test_T12_nothing_blocked_or_ignored_after_the_fork() -> None:
    handler = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR2])
    try:

        def child() -> int:
            blocked = signal.pthread_sigmask(signal.SIG_BLOCK, [])
            return int(bool(blocked) or signal.getsignal(signal.SIGHUP) != signal.SIG_DFL)

        assert code(forked(child)) == 0
    finally:
        signal.signal(signal.SIGHUP, handler)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def test_exec_is_confirmed_only_after_the_exec() -> None:
    hold_r, hold_w = os.pipe()

    def child() -> int:
        os.read(hold_r, 1)
        os.execv("/bin/sleep", ["sleep", "30"])

    pid = forked(child)
    assert not process.exec_confirmed(pid)
    os.write(hold_w, b"x")
    wait_for(lambda: process.exec_confirmed(pid), 5)
    os.kill(pid, signal.SIGKILL)
    wait_for(lambda: is_gone(pid), 5)
    assert not process.exec_confirmed(pid)  # a zombie
    os.waitpid(pid, 0)
    assert not process.exec_confirmed(pid)


def test_C3_another_process_with_the_pid_is_not_signalled() -> None:
    child = subprocess.Popen(["sleep", "30"])
    true = process.identify(child.pid)
    assert true is not None
    stranger = ProcessId(child.pid, true.created - 100)
    assert not process.signal_process(stranger, signal.SIGKILL)
    assert not process.signal_group(stranger, signal.SIGKILL)
    process.kill_tree(stranger)
    assert child.poll() is None
    assert process.signal_process(true, signal.SIGKILL)
    assert child.wait() == -signal.SIGKILL


def test_L3_a_process_stays_itself_when_the_clock_is_set(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """psutil's creation time moves with the clock: then nothing could be signalled any more."""
    child = subprocess.Popen(["sleep", "30"])
    before = process.identify(child.pid)
    assert before is not None
    assert abs(process.since_epoch(before.created) - time.time()) < 5
    real, real_time = _pslinux.boot_time, time.time
    for hours in (-1, 24 * 365):
        monkeypatch.setattr(_pslinux, "boot_time", lambda h=hours: real() + h * 3600)
        monkeypatch.setattr(time, "time", lambda h=hours: real_time() + h * 3600)
        assert process.identify(child.pid) == before
    assert process.signal_process(before, signal.SIGTERM)
    assert child.wait() == -signal.SIGTERM


def test_kill_tree_reaches_other_sessions_and_stopped_processes() -> None:
    script = (
        "import os, signal, time\n"
        "for i in range(3):\n"
        "    if os.fork() == 0:\n"
        "        os.setsid()\n"
        "        if i: os.kill(os.getpid(), signal.SIGSTOP)\n"
        "        time.sleep(60)\n"
        "print('up', flush=True)\n"
        "time.sleep(60)\n"
    )
    top = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE)
    assert top.stdout is not None and top.stdout.readline() == b"up\n"
    family = process.descendants(top.pid)
    assert len(family) == 3
    target = process.identify(top.pid)
    assert target is not None
    process.kill_tree(target)
    assert top.wait() == -signal.SIGKILL
    wait_for(lambda: all(is_gone(p.pid) for p in family), 2)


def test_many_trees_are_killed_by_the_same_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    script = "import os, time\nif os.fork() == 0: os.setsid()\nos.write(1, b'.')\ntime.sleep(60)"
    tops = [
        subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE) for _ in range(8)
    ]
    for top in tops:
        assert top.stdout is not None
        assert top.stdout.read(2) == b".."
    family = process.descendants(*[top.pid for top in tops])
    targets = [process.identify(top.pid) for top in tops]
    looks: list[int] = []
    real = process._by_parent
    monkeypatch.setattr(process, "_by_parent", lambda: looks.append(1) or real())
    gone = process.ProcessId(os.getpid(), 1.0)  # who has its pid is another
    process.kill_all([gone, *(target for target in targets if target is not None)])
    assert [top.wait() for top in tops] == [-signal.SIGKILL] * 8
    assert len(family) == 8 and len(looks) <= 4
    wait_for(lambda: all(is_gone(p.pid) for p in family), 2)


def test_R1_a_guards_tree_ends_with_the_lifeline() -> None:
    """Also what daemonized: the guard is its subreaper."""
    ours, theirs = socket.socketpair()
    reader, writer = os.pipe()
    me = os.getpid()
    script = (
        "import os, time\n"
        "if os.fork() == 0:\n"
        "    os.setsid()\n"
        "    if os.fork() == 0:\n"
        f"        os.write({writer}, b'%d' % os.getpid())\n"
        "        time.sleep(60)\n"
        "    os._exit(0)\n"
        "os.wait(); time.sleep(60)\n"
    )

    def run() -> int:
        ours.close()
        watcher = guard.Guard(me)

        def program() -> int:
            os.set_inheritable(writer, True)
            os.execv(sys.executable, [sys.executable, "-c", script])

        pid = process.fork(program)
        return guard.leave_like(watcher.watch(pid, theirs))

    pid = forked(run)
    theirs.close()
    daemon = int(os.read(reader, 32))
    assert not is_gone(daemon)
    ours.close()
    assert code(pid) == -signal.SIGKILL
    wait_for(lambda: is_gone(daemon), 2)


def test_a_guard_forwards_the_stop_signal_and_the_exit_code() -> None:
    ours, theirs = socket.socketpair()
    me = os.getpid()
    script = "trap 'exit 5' USR1; echo up >&9; while :; do sleep 0.05; done"
    reader, writer = os.pipe()

    def run() -> int:
        watcher = guard.Guard(me)

        def program() -> int:
            os.dup2(writer, 9, inheritable=True)
            os.execv("/bin/sh", ["sh", "-c", script])

        pid = process.fork(program)
        return guard.leave_like(watcher.watch(pid, theirs, signal.SIGUSR1))

    pid = forked(run)
    assert os.read(reader, 3) == b"up\n"
    os.kill(pid, signal.SIGTERM)
    assert code(pid) == 5
    for each in (ours, theirs):
        each.close()


def test_F5_a_log_that_is_no_plain_file_is_refused(tmp_path: Path) -> None:
    plain = tmp_path / "plain"
    plain.write_text("x")
    os.link(plain, tmp_path / "hard")
    (tmp_path / "link").symlink_to(plain)
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "folder").mkdir()
    for name in ("hard", "link", "dangling", "fifo", "folder"):
        with pytest.raises(OSError):
            os.close(descriptors.open_log(str(tmp_path / name)))
    assert not (tmp_path / "nowhere").exists() and plain.read_text() == "x"
    fd = descriptors.open_log(str(tmp_path / "new"))
    assert os.fstat(fd).st_mode & 0o777 == 0o600
    os.close(fd)


def test_F3_a_sealed_document_cannot_be_changed() -> None:
    fd = descriptors.memory_file("test")
    descriptors.fill_and_seal(fd, b"x" * 1_000_000)
    with pytest.raises(PermissionError):
        os.pwrite(fd, b"y", 0)
    with pytest.raises(PermissionError):
        os.ftruncate(fd, 1)
    assert len(os.read(fd, 2_000_000)) == 1_000_000
    os.close(fd)


def test_close_all_but_with_any_set() -> None:
    def child() -> int:
        for keep in ([0, 1, 2], [0], [], [1, 2]):
            spare = [os.open(os.devnull, os.O_RDONLY) for _ in range(5)]
            wanted = sorted({*keep, spare[2]} & set(descriptors.open_descriptors()))
            descriptors.close_all_but([*keep, spare[2]])
            if descriptors.open_descriptors() != wanted:
                return 1
        return 0

    assert code(forked(child)) == 0


def test_F1_the_parents_garbage_closes_nothing_in_a_child() -> None:
    class Cycle:
        def __init__(self) -> None:
            self.me = self
            self.sockets = socket.socketpair()

    gc.disable()
    try:
        numbers = {sock.fileno() for sock in Cycle().sockets}

        def child() -> int:
            descriptors.close_all_but([0, 1, 2])
            reused = {os.open("/dev/null", os.O_RDONLY) for _ in range(max(numbers))}
            gc.collect()
            return 0 if reused <= set(descriptors.open_descriptors()) and numbers <= reused else 1

        pid = process.fork(child)
    finally:
        gc.enable()
    assert os.waitpid(pid, 0)[1] == 0


def test_no_new_privs_and_no_capabilities() -> None:
    need_root()

    def child() -> int:
        syscalls.drop_bounding_set()
        syscalls.capset_none()
        syscalls.set_no_new_privs()
        text = Path("/proc/self/status").read_text()
        fields = dict(line.split(":\t", 1) for line in text.splitlines() if ":\t" in line)
        zero = all(int(fields[k], 16) == 0 for k in ("CapEff", "CapPrm", "CapBnd", "CapAmb"))
        return 0 if zero and fields["NoNewPrivs"] == "1" else 1

    assert code(forked(child)) == 0
