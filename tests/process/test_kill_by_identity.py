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
from tests.conftest import is_gone, wait_for
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
