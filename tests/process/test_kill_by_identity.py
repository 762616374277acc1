"""C3: a pid that another process has by now is never signalled, nor is what it forked."""

from __future__ import annotations

import os
import signal
import subprocess
import time

import pytest

from mepd.master.loop import Loop
from mepd.master.stopping import Stopper
from mepd.master.table import Uep, UepTable
from mepd.model import StartRequest, UepState
from mepd.posix import process
from mepd.posix.process import ProcessId
from tests.conftest import is_gone, need_root, wait_for
from tests.process.pidreuse import reuse

FAMILY = ("sh", "-c", "sleep 60 & sleep 60 & wait")


def ended() -> ProcessId:
    """The identity of a process that has been reaped.

    It lives for longer than the kernel's clock tick, in which its creation is counted.
    """
    with subprocess.Popen(["sleep", "60"]) as child:
        identity = process.identify(child.pid)
        time.sleep(2.5 / os.sysconf("SC_CLK_TCK"))
        child.kill()
    assert identity is not None
    return identity


@pytest.mark.parametrize("how", ["TERM", "KILL", "tree", "group"])
def test_c3_a_reused_pid_gets_no_signal(how: str) -> None:
    stale = ended()
    stranger = reuse(stale.pid, FAMILY)
    try:
        children = wait_for(lambda: process.descendants(stranger.pid)[1:], 10, "its children")
        if how == "tree":
            process.kill_tree(stale)
        elif how == "group":
            assert not process.signal_group(stale, signal.SIGKILL)
        else:
            assert not process.signal_process(stale, getattr(signal, f"SIG{how}"))
        assert stranger.poll() is None
        for child in children:
            assert process.identify(child.pid) == child and not is_gone(child.pid)
            with open(f"/proc/{child.pid}/stat") as f:
                assert f.read().rpartition(")")[2].split()[0] != "T", "it was stopped"
    finally:
        identity = process.identify(stranger.pid)
        assert identity is not None
        process.kill_tree(identity)
        stranger.wait()


def test_c3_stopping_a_uep_whose_pid_is_anothers() -> None:
    stale = ended()
    stranger = reuse(stale.pid)
    table = UepTable()
    stopper = Stopper(Loop(), table, 1.0)
    request = StartRequest("n", "m", "u", "e", "h", (), 0, {})
    uep = Uep("n", "gpu", request, stale, stale, "c", 0.0, UepState.RUNNING, user="h", uid=1)
    table.add(uep)
    try:
        assert not stopper.stop(uep, "test")
        assert not stopper.signal(uep, signal.SIGHUP, "test")
        stopper.kill(uep, "test")
        assert stranger.poll() is None
    finally:
        uep.release()
        stranger.kill()
        stranger.wait()


def test_R4_what_may_not_be_signalled_saves_nobody_else() -> None:
    """Without root's rights mepd may not signal what sudo(8) has begun below a UEP."""
    need_root()
    reader, writer = os.pipe()

    def tree() -> int:
        os.write(writer, b"%d\n" % process.fork(lambda: time.sleep(60) or 0))  # type: ignore
        os.setresuid(65534, 65534, 65534)
        time.sleep(60)
        return 0

    def killer() -> int:
        os.setresuid(65534, 65534, 65534)
        process.kill_tree(identity)
        return 0

    root = process.fork(tree)
    below = int(os.read(reader, 32))
    wait_for(lambda: process.real_uid(root) == 65534, 10, "its user")
    identity = process.identify(root)
    assert identity is not None
    try:
        assert os.waitpid(process.fork(killer), 0)[1] == 0
        assert os.waitpid(root, 0)[1] == signal.SIGKILL and not is_gone(below)
    finally:
        process.kill_tree(identity)
        os.kill(below, signal.SIGKILL)
    for fd in (reader, writer):
        os.close(fd)
