"""D7: between the drop and the exec, nothing of root's can be read by the user it became."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from mepd.launch import environment, handoff, render
from mepd.posix import accounts, descriptors, process, programs, syscalls
from tests.conftest import User, is_gone, wait_for
from tests.root import launching

# What a process of the same user tries on another one.
ATTACK = r"""
import ctypes, errno, json, os, sys
pid = int(sys.argv[1])
libc = ctypes.CDLL(None, use_errno=True)
libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]
libc.process_vm_readv.restype = ctypes.c_ssize_t
def ptrace(request):
    if libc.ptrace(request, pid, None, None) == 0:
        libc.ptrace(17, pid, None, None)  # PTRACE_DETACH
        return "worked"
    return errno.errorcode[ctypes.get_errno()]
def attempt(call, *args):
    try:
        call(*args)
    except OSError as e:
        return errno.errorcode[e.errno]
    return "worked"
def read_of(name):
    with open(f"/proc/{pid}/{name}", "rb") as f:
        if name != "mem":
            f.read(1)
class Vector(ctypes.Structure):
    _fields_ = [("base", ctypes.c_void_p), ("size", ctypes.c_size_t)]
def readv():
    mine = ctypes.create_string_buffer(8)
    local = Vector(ctypes.addressof(mine), 8)
    remote = Vector(ctypes.cast(libc.ptrace, ctypes.c_void_p), 8)
    if libc.process_vm_readv(pid, ctypes.byref(local), 1, ctypes.byref(remote), 1, 0) < 0:
        number = ctypes.get_errno()
        return "worked" if number == errno.EFAULT else errno.errorcode[number]
    return "worked"
def duplicate():
    fd = os.pidfd_open(pid)
    if libc.syscall(438, fd, 0, 0) < 0:  # pidfd_getfd(2)
        return errno.errorcode[ctypes.get_errno()]
    return "worked"
print(json.dumps({
    "ptrace attach": ptrace(16), "ptrace seize": ptrace(0x4206),
    "process_vm_readv": readv(), "pidfd_getfd": duplicate(),
    "fd": attempt(os.listdir, f"/proc/{pid}/fd"),
    "cwd": attempt(os.readlink, f"/proc/{pid}/cwd"),
    **{name: attempt(read_of, name) for name in ("mem", "environ", "maps", "auxv")},
}))
"""


def attack(user: User, pid: int) -> dict[str, str]:
    done = subprocess.run(
        [sys.executable, "-I", "-c", ATTACK, str(pid)],
        user=user.uid, group=user.gid, extra_groups=os.getgrouplist(user.name, user.gid),
        cwd="/", capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    found: dict[str, str] = json.loads(done.stdout)
    return found


def state(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


# Every step after setresuid, in its order; each is held before it does anything.
STAGES: list[tuple[Any, str]] = [
    (accounts, "prove_irreversible"),
    (syscalls, "set_not_dumpable"),
    (syscalls, "capset_none"),
    (syscalls, "set_no_new_privs"),
    (os, "setsid"),
    (os, "umask"),
    (environment, "build"),
    (render, "configuration"),
    (handoff, "_enter_home"),
    (handoff, "_make_folder"),
    (handoff, "_document"),
    (descriptors, "fill_and_seal"),
    (descriptors, "open_log"),
    (programs, "find_program"),
    (descriptors, "place"),
    (process, "die_with_parent"),
    (os, "execve"),
]


@pytest.fixture
def hold(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Any, str], None]]:
    """Makes a function of the launch child stop the child before it does its work."""
    test = os.getpid()

    def patch(where: Any, name: str) -> None:
        original = getattr(where, name)

        def held(*args: Any, **kwargs: Any) -> Any:
            as_root = name in ("die_with_parent", "set_not_dumpable") and os.geteuid() == 0
            if os.getpid() != test and not as_root:
                os.kill(os.getpid(), signal.SIGSTOP)
            return original(*args, **kwargs)

        monkeypatch.setattr(where, name, held)

    yield patch


def request(user: User) -> Any:
    return launching.request(f"{user.name}@example.org")


@pytest.mark.parametrize(("where", "name"), STAGES, ids=[n for _, n in STAGES])
def test_D7_a_stage_that_is_held_shows_its_user_nothing(
    harper: User, tmp_path: Path, hold: Callable[[Any, str], None], where: Any, name: str
) -> None:
    marker = tmp_path / "ran"
    marker.touch()
    marker.chmod(0o666)
    body = f"open({str(marker)!r}, 'w').write('yes')"
    snap = launching.snapshot(launching.script(tmp_path, body))
    hold(where, name)
    launch = launching.Launch(launching.plan(snap, request(harper)))
    pid = launch.launched.pid
    try:
        launch.stages_until_mapped()
        wait_for(lambda: state(pid) == "T", 20, "the stage to be held")
        status = Path(f"/proc/{pid}/status").read_text()
        assert f"Uid:\t{harper.uid}\t{harper.uid}\t{harper.uid}\t{harper.uid}" in status
        assert set(attack(harper, pid).values()) <= {"EPERM", "EACCES"}
        limits = Path(f"/proc/{pid}/limits").read_text()
        assert [x.split()[4:6] for x in limits.splitlines() if "core file" in x] == [["0", "0"]]
        while not is_gone(pid):  # what is done twice is held twice
            if state(pid) == "T":
                os.kill(pid, signal.SIGCONT)
            time.sleep(0.005)
        assert launch.stages().failed is None
        launch.wait()
        assert launch.outcome.code == 0 and marker.read_text() == "yes"
    finally:
        launch.close()


def test_D7_no_core_of_a_launch_child(
    harper: User, tmp_path: Path, hold: Callable[[Any, str], None]
) -> None:
    """A crash after the drop leaves nothing behind in the folder it stood in."""
    hold(descriptors, "open_log")
    snap = launching.snapshot(launching.script(tmp_path, ""))
    launch = launching.Launch(launching.plan(snap, request(harper)))
    pid = launch.launched.pid
    try:
        launch.stages_until_mapped()
        wait_for(lambda: state(pid) == "T", 20, "the stage to be held")
        os.kill(pid, signal.SIGSEGV)
        os.kill(pid, signal.SIGCONT)
        launch.wait()
    finally:
        launch.close()
    ended = launch.outcome.status or 0
    assert os.WTERMSIG(ended) == signal.SIGSEGV and not os.WCOREDUMP(ended)
    assert not list(Path(harper.home).glob("core*"))


@pytest.mark.parametrize("step", [(accounts, "lookup"), (accounts, "set_uid"), (os, "execve")])
def test_D7_not_dumpable_at_any_time(
    harper: User, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: tuple[Any, str]
) -> None:
    """Not as root either: a limit keeps no core from a program that is given cores."""
    found = tmp_path / "found"
    found.touch()
    found.chmod(0o666)
    original = getattr(*step)
    test = os.getpid()

    def look(*args: Any) -> Any:
        if os.getpid() != test:
            found.write_text(str(syscalls.prctl(3)))  # PR_GET_DUMPABLE
        return original(*args)

    monkeypatch.setattr(*step, look)
    snap = launching.snapshot(launching.script(tmp_path, ""))
    assert launching.run(launching.plan(snap, request(harper))).code == 0
    assert found.read_text() == "0"


def test_D7_the_attack_works_on_the_users_own_processes(harper: User, tmp_path: Path) -> None:
    """So that its failure above means something: the UEP itself is the user's to look at."""
    body = "import socket, time\nsocket.socket(fileno=5).sendall(b'up')\ntime.sleep(600)\n"
    snap = launching.snapshot(launching.script(tmp_path, body))
    launch = launching.Launch(launching.plan(snap, request(harper)))
    try:
        assert launch.stages().failed is None and launch.notify() == b"up"
        found = attack(harper, launch.launched.pid)
        assert found["environ"] == found["fd"] == found["mem"] == "worked"
        os.kill(launch.launched.pid, signal.SIGKILL)
        launch.wait()
    finally:
        launch.close()
