"""A Debian in a container with systemd as its first process.

The base is made once by scripts/test; each container is a layer upon it, so that a test
has a machine of its own in seconds. The environment of the tests is mounted into it.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import psutil

from tests.conftest import wait_for

BASE = Path(os.environ.get("MEPD_TEST_CONTAINER", f"{sys.prefix}-container"))
PREFIX = Path(sys.prefix)
BOOT_S = 90.0
_REBOOT = 133


def is_possible() -> bool:
    return (
        os.geteuid() == 0
        and shutil.which("systemd-nspawn") is not None
        and (BASE / ".finished").exists()
    )


def _cgroups(name: str) -> list[Path]:
    """A control group of that name below this process's own, in what systemd uses."""
    made = []
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, kind, own = line.split(":", 2)
        for mount in Path("/proc/self/mountinfo").read_text().splitlines():
            before, _, after = mount.partition(" - ")
            fields, (fstype, _, options) = before.split(), after.split(" ", 2)
            v1 = kind == "name=systemd" and fstype == "cgroup" and kind in options.split(",")
            if v1 or (not kind and fstype == "cgroup2"):
                made.append(Path(fields[4]) / own.lstrip("/") / name)
    return made


class Container:
    """One machine, booted by :meth:`boot`; ``root`` is its file system as seen from here."""

    def __init__(self) -> None:
        self._work = Path(tempfile.mkdtemp(prefix="mepd-machine-", dir="/var/tmp"))
        self.root = self._work / "root"
        self._nspawn: subprocess.Popen[bytes] | None = None
        # Of its own: two containers in one group would end each other's services.
        self._groups = _cgroups(self._work.name)
        for name in ("root", "upper", "work"):
            (self._work / name).mkdir()
        self._work.chmod(0o755)
        layers = f"lowerdir={BASE},upperdir={self._work}/upper,workdir={self._work}/work"
        subprocess.run(
            ["mount", "-t", "overlay", "overlay", "-o", layers, self.root], check=True
        )
        (self.root / "opt").mkdir(exist_ok=True)
        (self.root / "opt/mepd").symlink_to(PREFIX)

    @property
    def log(self) -> Path:
        return self._work / "console"

    def _enter_groups(self) -> None:
        """In nspawn, before it is executed."""
        for group in self._groups:
            group.mkdir(exist_ok=True)
            (group / "cgroup.procs").write_text("0")

    def boot(self) -> None:
        with open(self.log, "ab") as console:
            self._nspawn = subprocess.Popen(
                [
                    "systemd-nspawn", "--quiet", "--boot", "--register=no", "--keep-unit",
                    "--private-network", "--link-journal=no", "--resolv-conf=off",
                    "--timezone=off", f"--machine=mepd-{os.getpid()}", "--hostname=mepd-test",
                    f"--directory={self.root}", f"--bind-ro={PREFIX}",
                    "systemd.mask=getty.target",
                ],
                stdin=subprocess.DEVNULL, stdout=console, stderr=console,
                preexec_fn=self._enter_groups,
            )  # fmt: skip
        self._wait_booted()

    def _wait_booted(self) -> None:
        def is_up() -> bool:
            with contextlib.suppress(subprocess.CalledProcessError, psutil.Error, IndexError):
                state = self.run("systemctl", "is-system-running", check=False).strip()
                return state in ("running", "degraded")
            return False

        wait_for(is_up, BOOT_S, "the container's boot")

    @property
    def init(self) -> int:
        """The pid of its first process, out here."""
        assert self._nspawn is not None
        return int(psutil.Process(self._nspawn.pid).children()[0].pid)

    def run(self, *command: str, check: bool = True, timeout: float = 120) -> str:
        """Run a command as root inside; its output, standard error included."""
        path = f"/opt/mepd/bin:{os.defpath}:/usr/sbin:/sbin"
        done = subprocess.run(
            ["nsenter", "--target", str(self.init), "--all", "--",
             "env", "-i", f"PATH={path}", "HOME=/root", "LANG=C.UTF-8", *command],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            text=True, timeout=timeout,
        )  # fmt: skip
        if check and done.returncode:
            raise AssertionError(f"{command}: exit code {done.returncode}\n{done.stdout}")
        return done.stdout

    def shell(self, script: str, **options: float) -> str:
        return self.run("bash", "-c", script, **options)  # type: ignore[arg-type]

    def reboot(self) -> None:
        """As the machine's own reboot: nspawn ends with what means that, and is run again."""
        assert self._nspawn is not None
        self.run("systemctl", "reboot", check=False)
        assert self._nspawn.wait(90) == _REBOOT
        self.boot()

    def close(self) -> None:
        if self._nspawn is not None:
            with contextlib.suppress(psutil.Error, IndexError):
                os.kill(self.init, signal.SIGKILL)  # as if the power went
            self._nspawn.wait(30)
        for group in self._groups:
            folders = [Path(found) for found, _, _ in os.walk(group, topdown=False)]
            for folder in folders:
                with contextlib.suppress(OSError):
                    folder.rmdir()
        subprocess.run(["umount", "--recursive", self.root], check=True)
        shutil.rmtree(self._work, ignore_errors=True)
