"""L2: one user's excesses within the limits of the site, and everybody else's starts."""

from __future__ import annotations

import os
import secrets
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mepd.model import UepState
from mepd.posix.rlimits import Limit
from tests.conftest import User, is_gone
from tests.figures import FULL
from tests.root import launching
from tests.root.masterparts import REPORTER, Harness

PROCESSES = 40
BOMB = """
        while True:
            try:
                os.fork()
            except OSError:
                time.sleep(0.05)
        """
HOGS = {
    "memory": """
        kept = []
        try:
            while True:
                kept.append(b"x" * (1 << 20))
        except MemoryError:
            del kept[:1]
        """,
    "descriptors": """
        kept = []
        try:
            while True:
                kept.append(os.dup(0))
        except OSError:
            pass
        """,
    "a flood of the log": """
        for _ in range(200):
            os.write(1, b"y" * (1 << 16) + b"\\n")
        """,
    "processes with sessions of their own": """
        for _ in range(20):
            try:
                if os.fork() == 0:
                    os.setsid()
                    if os.fork():
                        os._exit(0)
                    break
            except OSError:
                break
        """,
}
if FULL:  # beside other tests it would be theirs to bear
    HOGS |= {"a fork bomb": BOMB, "a fork bomb with PAM": BOMB}


@pytest.fixture
def h(tmp_path: Path, harper: User, request: Any) -> Iterator[Harness]:
    """UEPs that are hogs, if they are harper's."""
    body = (
        REPORTER + "report()\n" + f"if os.getuid() == {harper.uid}:\n"
        + textwrap.indent(textwrap.dedent(HOGS[request.param]), "    ") + "\ntime.sleep(600)\n"
    )  # fmt: skip
    # The launch child begins with the address space of this process.
    room = int(Path("/proc/self/statm").read_text().split()[0]) * 4096 + (1 << 28)
    limits = (
        Limit("nproc", PROCESSES, PROCESSES), Limit("as", room, room),
        Limit("nofile", 256, 256),
    )  # fmt: skip
    pam = Path("/etc/pam.d") / f"mepd-test-{secrets.token_hex(4)}"
    pam.write_text("account required pam_permit.so\nsession required pam_permit.so\n")
    made = Harness(
        launching.snapshot(
            launching.script(tmp_path, body), limits=limits,
            pam_enable="PAM" in request.param, pam_service=pam.name,
        )
    )  # fmt: skip
    yield made
    made.close()
    pam.unlink()


def of(user: User) -> list[int]:
    """The living processes of a user."""
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            if os.stat(f"/proc/{pid}").st_uid == user.uid and not is_gone(int(pid)):
                found.append(int(pid))
        except OSError:
            continue
    return found


@pytest.mark.figures
@pytest.mark.parametrize("h", HOGS, indirect=True)
def test_L2_a_hog_is_its_own_affair(h: Harness, harper: User, jessie: User) -> None:
    hog = h.request(launching.request(f"{harper.name}@example.org"))
    h.run_until(lambda: hog in h.settled)
    for _ in range(5):
        token = h.request(launching.request(f"{jessie.name}@example.org"))
        h.run_until(lambda token=token: token in h.settled)  # type: ignore[misc]
    assert h.notices == []
    ueps = {u.user: u for u in h.table}
    assert ueps[harper.name].state is UepState.RUNNING
    assert len(of(harper)) <= PROCESSES
    assert sum(u.user == jessie.name for u in h.table) == 5
    h.stopper.stop(ueps[harper.name], "enough")
    h.run_until(lambda: all(u.user == jessie.name for u in h.table))
    deadline = time.monotonic() + 10
    h.run_until(lambda: not of(harper) or time.monotonic() > deadline)
    assert of(harper) == []
