"""A real mepd tells a real socket of a service manager's what it does."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import psutil

from tests.conftest import need_root, require, wait_for

PREFIX = Path(sys.executable).parent.parent


def test_a_life_as_a_service(tmp_path: Path) -> None:
    need_root()
    require((PREFIX / "bin/mepd").exists(), "mepd installed beside this Python")
    (tmp_path / "mepd.conf").write_text(
        "[mepd]\nlogfile = log/mepd.log\npidfile = run/mepd.pid\nuser = nobody\n"
        "[control]\nfile = run/mepd.sock\n"
    )
    told: list[str] = []
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        manager.settimeout(0.01)

        def heard(text: str) -> bool:
            try:
                while True:
                    told.append(manager.recv(4096).decode())
            except TimeoutError:
                return any(message.startswith(text) for message in told)

        environ = {"NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "600000"}
        mepd = subprocess.Popen(
            [PREFIX / "bin/mepd", "-n", "-c", tmp_path / "mepd.conf"],
            env={"PATH": "/usr/bin:/bin", **environ},
        )
        try:
            wait_for(lambda: heard("READY=1"), what="READY")
            wait_for(lambda: heard("WATCHDOG=1"), what="WATCHDOG")
            assert "STATUS=0 of 0 endpoints online; 0 user endpoints of 0 users" in told
            for child in psutil.Process(mepd.pid).children():
                assert b"NOTIFY_SOCKET" not in Path(f"/proc/{child.pid}/environ").read_bytes()
            told.clear()
            os.kill(mepd.pid, signal.SIGHUP)
            wait_for(lambda: heard("READY=1"), what="the end of the reload")
            assert [m for m in told if m.startswith("RELOADING=1\nMONOTONIC_USEC=")]
        finally:
            mepd.terminate()
            assert mepd.wait(20) == 0
        assert heard("STOPPING=1")
