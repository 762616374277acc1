"""Forces the kernel to give a pid again (proc(5), ns_last_pid)."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tests.conftest import require

_LAST = Path("/proc/sys/kernel/ns_last_pid")


def reuse(pid: int, command: tuple[str, ...] = ("sleep", "60")) -> subprocess.Popen[bytes]:
    """A stranger with the pid of a process that has been reaped."""
    require(os.geteuid() == 0 and os.access(_LAST, os.W_OK), "a writable ns_last_pid")
    for _ in range(50):
        _LAST.write_text(str(pid - 1))
        stranger = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=sys.stderr)
        if stranger.pid == pid:
            return stranger
        stranger.kill()
        stranger.wait()
    raise AssertionError(f"pid {pid} was not given again")
