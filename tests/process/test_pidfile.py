"""Becoming the daemon: the way into the background, and the lock of the only one."""

from __future__ import annotations

import errno
import fcntl
import os
from pathlib import Path
from typing import Any

import pytest

from mepd.master import main as master
from mepd.posix import daemon, process


def test_C5_a_second_instance_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "mepd.pid"
    fd = daemon.lock_pidfile(path)
    with pytest.raises(daemon.AlreadyRunning, match=str(os.getpid())):
        daemon.lock_pidfile(path)
    os.close(fd)
    os.close(daemon.lock_pidfile(path))  # a stale file is taken over


def test_C5_nobody_else_can_hold_the_lock(tmp_path: Path) -> None:
    """Who may read a file may lock it: then mepd could not start after its death."""
    path = tmp_path / "mepd.pid"
    path.write_text("1\n")
    path.chmod(0o644)
    fd = daemon.lock_pidfile(path)
    assert path.stat().st_mode & 0o777 == 0o600
    os.close(fd)


def test_C5_a_pidfile_that_is_removed_while_it_is_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The instance before ends between the open and the lock of this one."""
    path = tmp_path / "mepd.pid"
    flock, calls = fcntl.flock, 0

    def late(fd: Any, operation: int) -> None:
        nonlocal calls
        calls += 1
        if calls == 1:
            path.unlink()
        flock(fd, operation)

    monkeypatch.setattr(fcntl, "flock", late)
    fd = daemon.lock_pidfile(path)
    assert path.read_text() == f"{os.getpid()}\n"
    with pytest.raises(daemon.AlreadyRunning):
        daemon.lock_pidfile(path)
    os.close(fd)


@pytest.mark.parametrize("refused", [1, 2])
def test_R6_no_process_to_go_into_the_background_with(
    tmp_path: Path, refused: int, capfd: pytest.CaptureFixture[str]
) -> None:
    """Either fork of daemon(7) is refused: the starter says so, and leaves with its code."""
    conf = tmp_path / "mepd.conf"
    conf.write_text("[mepd]\n")
    fork, calls = os.fork, 0

    def refuse() -> int:
        nonlocal calls
        calls += 1
        if calls == refused:
            raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))
        return fork()

    def child() -> int:
        os.fork = refuse
        return master.main(["-c", str(conf)], {})

    _, status = os.waitpid(process.fork(child), 0)
    assert os.waitstatus_to_exitcode(status) == os.EX_OSERR
    said = capfd.readouterr().err
    assert said.startswith("mepd: ") and "Resource temporarily unavailable" in said
    assert "Traceback" not in said
