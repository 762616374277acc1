"""The pidfile: whoever holds its lock is the only one."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path
from typing import Any

import pytest

from mepd.posix import daemon


def test_C5_a_second_instance_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "mepd.pid"
    fd = daemon.lock_pidfile(path)
    with pytest.raises(daemon.AlreadyRunning, match=str(os.getpid())):
        daemon.lock_pidfile(path)
    os.close(fd)
    os.close(daemon.lock_pidfile(path))  # a stale file is taken over


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
