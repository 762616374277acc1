"""What every layer shares: probes, free ports, waiting with a deadline, real users.

A probe that fails skips a test on a developer's machine and fails it in CI, where
everything must be there.
"""

from __future__ import annotations

import os
import secrets
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import hypothesis
import pytest

from tests import side_by_side

T = TypeVar("T")

# How long an example takes is the machine's affair.
hypothesis.settings.register_profile("mepd", deadline=None)
hypothesis.settings.load_profile("mepd")

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # A shell starts what it runs in the background so, and all that is started here would
    # inherit it.
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> object:
    return side_by_side.scheduler(config, log)


def require(present: bool, what: str) -> None:
    """Skip without ``what``; in CI fail."""
    if not present:
        if os.environ.get("CI"):
            pytest.fail(f"CI must have {what}")
        pytest.skip(f"needs {what}")


def wait_for(condition: Callable[[], T], timeout: float = 20.0, what: str = "condition") -> T:
    """The first true value of ``condition``; fails after ``timeout`` seconds."""
    deadline = time.monotonic() + timeout
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > deadline:
            pytest.fail(f"timed out waiting for {what}")
        time.sleep(0.01)


def lines_with(text: str, log: str) -> list[str]:
    """The lines of ``log`` with ``text`` in them: of two long texts pytest works out the
    difference for minutes where an assertion fails."""
    return [line for line in log.splitlines() if text in line]


def is_gone(pid: int) -> bool:
    """Whether a process has ended, be it waited for or not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"
    except OSError:
        return True


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port: int = s.getsockname()[1]
        return port


class User:
    """A real account made with useradd(8)."""

    def __init__(self, name: str) -> None:
        import pwd

        entry = pwd.getpwnam(name)
        self.name, self.uid, self.gid, self.home = name, entry.pw_uid, entry.pw_gid, entry.pw_dir


def make_user(*options: str) -> User:
    name = f"mt{secrets.token_hex(4)}"
    subprocess.run(
        ["useradd", "--create-home", "--shell", "/bin/bash", *options, name],
        check=True, capture_output=True,
    )  # fmt: skip
    return User(name)


def remove_user(user: User) -> None:
    subprocess.run(["userdel", "--force", "--remove", user.name], capture_output=True)


def need_root() -> None:
    require(os.geteuid() == 0 and Path("/usr/sbin/useradd").exists(), "root and useradd")


@pytest.fixture(scope="session")
def harper() -> Iterator[User]:
    """A real account for the session of tests."""
    need_root()
    user = make_user()
    yield user
    remove_user(user)


@pytest.fixture(scope="session")
def jessie() -> Iterator[User]:
    """A second real account."""
    need_root()
    user = make_user()
    yield user
    remove_user(user)
