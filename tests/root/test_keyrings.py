"""Keys of the kernel's (keyrings(7)): a process is given its parent's session keyring, and who
has that may read what is in it, whatever their user."""

from __future__ import annotations

import ctypes
import errno
import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from mepd.posix import process
from tests.conftest import User
from tests.root import launching, pammodule

NUMBERS = {"x86_64": (248, 250), "aarch64": (217, 219)}
SESSION = -3
JOIN, SEARCH = 1, 10

# What a UEP finds in its session keyring by these names, and what it then leaves there.
UEP = """
import ctypes, json, os, socket
libc = ctypes.CDLL(None, use_errno=True)
add_key, keyctl = {numbers}
def found(name):
    serial = libc.syscall(keyctl, {SEARCH}, {SESSION}, b"user", name, 0)
    return ctypes.get_errno() if serial < 0 else "found"
names = [b"mepd-test-root", b"mepd-test-another"]
out = [found(name) for name in names]
own = libc.syscall(add_key, b"user", names[1], b"canary", 6, {SESSION})
out.append(own > 0)
socket.socket(fileno=5).sendall(json.dumps(out).encode())
"""


def seen_by(user: User, folder: Path, service: str | None) -> list[object]:
    numbers = NUMBERS[os.uname().machine]
    body = UEP.format(numbers=numbers, SEARCH=SEARCH, SESSION=SESSION)
    snap = launching.snapshot(
        launching.script(folder, body), pam_enable=service is not None, pam_service=service or ""
    )
    launch = launching.Launch(launching.plan(snap, launching.request(f"{user.name}@example.org")))
    try:
        outcome = launch.stages()
        assert outcome.failed is None, outcome.failed
        found: list[object] = json.loads(launch.notify_all())
        launch.wait()
        return found
    finally:
        launch.close()


def in_a_child(check: Callable[[], int]) -> int:
    """Its session keyring is not that of the tests. Returns its exit code."""
    pid = process.fork(check)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


@pytest.mark.parametrize("pam", [False, True])
def test_F2_keys_of_root_and_of_other_user_endpoints_are_not_a_ueps(
    harper: User, jessie: User, tmp_path: Path, pam: bool
) -> None:
    add_key, keyctl = NUMBERS.get(os.uname().machine, (0, 0))
    libc = ctypes.CDLL(None, use_errno=True)
    # not by looking at our own: it may be revoked, as after pam_keyinit(8)
    if not keyctl or in_a_child(lambda: int(libc.syscall(keyctl, JOIN, None) < 0)):
        pytest.skip("no keys here, or their system calls are unknown")

    def check() -> int:
        assert libc.syscall(keyctl, JOIN, None) > 0
        assert libc.syscall(add_key, b"user", b"mepd-test-root", b"canary", 6, SESSION) > 0
        lines = ("account required pam_permit.so", "session required pam_permit.so")
        with pammodule.service(*lines) as name:
            service = name if pam else None
            for user in (harper, jessie):
                assert seen_by(user, tmp_path, service) == [errno.ENOKEY, errno.ENOKEY, True]
        return 0

    assert in_a_child(check) == 0
