"""Many starts: nothing may be left of any of them, and nobody may look into one."""

from __future__ import annotations

import gc
import logging
import os
import secrets
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import User, is_gone, make_user, need_root, remove_user
from tests.figures import FULL, figure
from tests.root import launching
from tests.root.masterparts import REPORTER, Harness

pytestmark = pytest.mark.figures
SLEEP = REPORTER + "report()\ntime.sleep(600)\n"
PAM = """\
account required pam_permit.so
session required pam_exec.so {script}
session optional pam_limits.so
"""
# Polls for launch children and, with every right that its uid has, tries to read them.
SPY = """
import os, sys
me = os.getuid()
seen = reads = 0
print("watching", flush=True)
while True:
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            if not open(f"/proc/{{pid}}/cmdline", "rb").read().startswith(b"mepd: launch"):
                continue
            uids = open(f"/proc/{{pid}}/status").read().split("Uid:")[1].split()
            if int(uids[0]) != me:
                continue
        except OSError:
            continue
        seen += 1
        for name in ("environ", "mem", "maps", "fd/0", "fd/4", "fd/5", "fd/6", "fd/7", "stack"):
            try:
                with open(f"/proc/{{pid}}/{{name}}", "rb") as f:
                    f.read(4096)
                line = open(f"/proc/{{pid}}/cmdline", "rb").read()
                if line.startswith(b"mepd: launch"):  # else it has exec'ed: its own by now
                    reads += 1
            except OSError:
                pass
    if os.path.exists({end!r}):
        print(seen, reads, flush=True)
        break
"""


@pytest.fixture
def users() -> Iterator[list[User]]:
    need_root()
    made = [make_user() for _ in range(figure(3, 20))]
    yield made
    for user in made:
        remove_user(user)


@pytest.fixture
def service(tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """A PAM service that records its sessions, and the record."""
    need_root()
    record, script = tmp_path / "record", tmp_path / "record.sh"
    record.touch()
    script.write_text(f"#!/bin/sh\necho $PAM_TYPE:$PAM_USER >> {record}\n")
    script.chmod(0o755)
    path = Path("/etc/pam.d") / f"mepd-test-{secrets.token_hex(4)}"
    path.write_text(PAM.format(script=script))
    yield path.name, record
    path.unlink()


def harness(tmp_path: Path, **snapshot: Any) -> Harness:
    snap = launching.snapshot(launching.script(tmp_path, SLEEP), **snapshot)
    return Harness(snap, start_timeout=160.0)


def held() -> tuple[int, int]:
    """This process's descriptors; and, where no other test runs, what is ours in places of all."""
    gc.collect()
    names = [n for d in ("/run", "/tmp", "/dev/shm") for n in os.listdir(d)] if FULL else []
    return len(os.listdir("/proc/self/fd")), sum("mepd" in n or "uep" in n for n in names)


def memory_kb() -> int:
    text = Path("/proc/self/smaps_rollup").read_text()
    return int(text.split("\nPrivate_Dirty:")[1].split()[0])


def zombies() -> list[int]:
    children = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
    return [int(pid) for pid in children if is_gone(int(pid))]


def cycle(h: Harness, users: list[User], number: int) -> None:
    """Start one and let it end in one of four ways."""
    user = users[number % len(users)]
    token = h.request(launching.request(f"{user.name}@example.org"))
    h.run_until(lambda: token in h.settled)
    uep = h.uep()
    if number % 4 == 0:
        os.kill(uep.process.pid, signal.SIGKILL)
    elif number % 4 == 1:
        h.stopper.kill(uep, "test")
    else:
        h.stopper.stop(uep, "test")
    h.run_until(lambda: not len(h.table))


@pytest.mark.parametrize("pam", [False, True], ids=["without PAM", "with PAM"])
def test_a_thousand_starts_and_stops_leave_nothing(
    users: list[User], service: tuple[str, Path], tmp_path: Path, pam: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(logging.root.manager, "disable", logging.CRITICAL)  # pytest keeps them all
    count, few = figure(12, 1000), figure(8, 2000)
    h = harness(tmp_path, **({"pam_enable": True, "pam_service": service[0]} if pam else {}))
    try:
        gc.freeze()  # as mepd does: else much of a test's process is looked at seldom
        for number in range(few):  # what is made once is made, rings are full
            cycle(h, users, number)
        h.notices.clear()
        h.run_until(lambda: not h.reaper.strays())
        before, memory = held(), memory_kb()
        for number in range(count):
            cycle(h, users, number)
        h.run_until(lambda: not h.reaper.strays())
        assert held() == before
        assert zombies() == []
        h.notices.clear()
        assert len(h.settled) == len(set(h.settled)) == count + few
        if FULL:
            assert memory_kb() - memory < 2048
        sessions = Counter(service[1].read_text().split())
        for user in users:
            opened = sessions[f"open_session:{user.name}"]
            assert opened == sessions[f"close_session:{user.name}"]
            assert (opened > 0) is pam
    finally:
        gc.unfreeze()
        h.close()


def test_two_hundred_at_once_end_together(users: list[User], tmp_path: Path) -> None:
    count = figure(20, 200)
    h = harness(tmp_path)
    try:
        tokens = {
            h.request(launching.request(f"{users[n % len(users)].name}@example.org"))
            for n in range(count)
        }
        h.run_until(lambda: tokens <= set(h.settled), 170)
        pids = [u.process.pid for u in h.table]
        assert len(set(pids)) == count and not h.notices
        for uep in list(h.table):
            h.stopper.stop(uep, "test")
        h.run_until(lambda: not len(h.table))
        assert all(is_gone(pid) for pid in pids)
    finally:
        h.close()


def test_D7_a_spy_of_the_same_user_reads_nothing(
    users: list[User], tmp_path: Path
) -> None:
    user, end = users[0], tmp_path / "end"
    os.chmod(tmp_path, 0o755)
    spy = subprocess.Popen(
        [sys.executable, "-I", "-c", SPY.format(end=str(end))],
        user=user.uid, group=user.gid, extra_groups=[], stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    h = harness(tmp_path)
    try:
        assert spy.stdout is not None and spy.stdout.readline() == "watching\n"
        for number in range(figure(8, 500)):
            cycle(h, [user], number)
        end.touch()
        seen, reads = map(int, spy.stdout.readline().split())
        assert seen > 0 and reads == 0
    finally:
        h.close()
        spy.kill()
        spy.wait()
        spy.stdout and spy.stdout.close()
