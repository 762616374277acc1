"""The init script with a real mepd: LSB exit codes, no harm by stale files or a second start."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import is_gone, need_root, require, wait_for

TOP = Path(__file__).resolve().parents[2]
PREFIX = Path(sys.executable).parent.parent


class Script:
    def __init__(self, folder: Path) -> None:
        self.pidfile = folder / "run/mepd.pid"
        self._path = folder / "mepd"
        self._defaults = defaults = folder / "defaults"
        text = (TOP / "scripts/init.d").read_text()
        assert "/etc/default/mepd" in text
        self._path.write_text(text.replace("/etc/default/mepd", shlex.quote(str(defaults))))
        defaults.write_text(
            f"PREFIX={PREFIX}\nCONFIG={folder}/mepd.conf\nPIDFILE={self.pidfile}\n"
        )
        (folder / "mepd.conf").write_text(
            "[mepd]\nlogfile = log/mepd.log\npidfile = run/mepd.pid\nuser = nobody\n"
            "[control]\nfile = run/mepd.sock\n"
        )

    def without(self, *names: str) -> None:
        """From now on as if these had been removed: PREFIX, CONFIG."""
        with self._defaults.open("a") as f:
            f.writelines(f"{name}=/nonexistent\n" for name in names)

    def with_flock(self, flock: str) -> None:
        """From now on with another flock(1), a script for sh(1)."""
        other = self._path.parent / "bin/flock"
        other.parent.mkdir()
        other.write_text(f"#!/bin/sh\n{flock}\n")
        other.chmod(0o755)
        with self._defaults.open("a") as f:
            f.write(f"PATH={other.parent}:$PATH\n")

    def __call__(self, verb: str) -> int:
        return subprocess.run(
            ["/bin/sh", self._path, verb], capture_output=True, timeout=60
        ).returncode

    def pid(self) -> int:
        return int(self.pidfile.read_text())


@pytest.fixture
def script(tmp_path: Path) -> Iterator[Script]:
    need_root()
    require((PREFIX / "bin/mepd").exists(), "mepd installed beside this Python")
    yield Script(tmp_path)
    assert Script(tmp_path)("stop") == 0


def test_a_life(script: Script) -> None:
    assert script("status") == 3
    assert script("reload") == 7
    assert script("try-restart") == 0
    assert script("status") == 3
    assert script("start") == 0
    first = script.pid()
    assert script("status") == 0
    assert script("start") == 0 and script.pid() == first
    assert script("reload") == 0
    assert script("status") == 0 and script.pid() == first
    assert script("restart") == 0
    assert is_gone(first) and script.pid() != first
    assert script("stop") == 0
    assert script("status") == 3
    assert script("stop") == 0


def test_C5_start_after_sigkill(script: Script) -> None:
    """The pidfile and the socket that a killed master leaves are in nobody's way."""
    assert script("start") == 0
    first = script.pid()
    os.kill(first, signal.SIGKILL)
    wait_for(lambda: is_gone(first), what="the end of the master")
    assert script.pidfile.exists()
    assert script("status") == 3
    assert script("start") == 0
    assert script("status") == 0 and script.pid() != first


def test_a_wrong_configuration_does_not_start(script: Script, tmp_path: Path) -> None:
    (tmp_path / "mepd.conf").write_text("[mepd]\nlogfil = x\n")
    assert script("start") == 1
    assert script("status") == 3
    (tmp_path / "mepd.conf").unlink()
    assert script("start") == 6


@pytest.mark.parametrize("gone", [("PREFIX",), ("CONFIG",), ("PREFIX", "CONFIG")])
def test_stop_needs_neither_the_program_nor_its_configuration(
    script: Script, gone: tuple[str, ...]
) -> None:
    assert script("start") == 0
    pid = script.pid()
    script.without(*gone)
    assert script("restart") == (5 if "PREFIX" in gone else 6)
    assert script("try-restart") == (5 if "PREFIX" in gone else 6)
    assert not is_gone(pid), "a restart that cannot start is no stop"
    assert script("stop") == 0
    wait_for(lambda: is_gone(pid), what="the end of the master")


def test_a_pidfile_that_is_gone_is_not_made_anew(script: Script) -> None:
    """mepd removes its pidfile between the script's look at it and its flock(1)."""
    script.pidfile.parent.mkdir()
    script.pidfile.touch()
    script.with_flock(f'rm -f {script.pidfile}; exec /usr/bin/flock "$@"')
    assert script("stop") == 0
    assert not script.pidfile.exists()
