"""D2: a system call of a start is refused by the kernel, each with several errnos."""

from __future__ import annotations

import errno
import fcntl
import gc
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from mepd.launch import main
from mepd.model import Stage
from mepd.posix import descriptors, process, syscalls
from tests.conftest import User, need_root
from tests.root import launching, pammodule, seccomp

_LOG_FLAGS = (
    os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
)  # fmt: skip
NUMBERS = [
    errno.EPERM, errno.ENOENT, errno.EIO, errno.EAGAIN, errno.ENOMEM, errno.EACCES, errno.EINVAL,
    errno.ENOSYS,
]  # fmt: skip
Where = tuple[str, tuple[int, int] | None, Stage]
# The call, (index and value of an argument), and the stage that is to be named.
CALLS: dict[str, Where] = {
    "setgroups": ("setgroups", None, Stage.INITGROUPS),
    "setresgid": ("setresgid", None, Stage.HOST_AUTH),
    "setresuid": ("setresuid", None, Stage.SETUID),
    "capset": ("capset", None, Stage.HOST_AUTH),
    "no_new_privs": ("prctl", (0, syscalls.PR_SET_NO_NEW_PRIVS), Stage.HOST_AUTH),
    "capbset_read": ("prctl", (0, syscalls.PR_CAPBSET_READ), Stage.HOST_AUTH),
    "capbset_drop": ("prctl", (0, syscalls.PR_CAPBSET_DROP), Stage.HOST_AUTH),
    "cap_ambient": ("prctl", (0, syscalls.PR_CAP_AMBIENT), Stage.HOST_AUTH),
    "dumpable": ("prctl", (0, syscalls.PR_SET_DUMPABLE), Stage.REGAIN),
    "pdeathsig": ("prctl", (0, syscalls.PR_SET_PDEATHSIG), Stage.PARENT),
    "setsid": ("setsid", None, Stage.SETSID),
    "umask": ("umask", None, Stage.UMASK),
    "chdir": ("chdir", None, Stage.CHDIR),
    "mkdir": ("mkdir", None, Stage.CONFIG),
    "add_seals": ("fcntl", (1, fcntl.F_ADD_SEALS), Stage.STDIN),
    "open_log": ("openat", (2, _LOG_FLAGS), Stage.LOG),
    "dupfd": ("fcntl", (1, fcntl.F_DUPFD_CLOEXEC), Stage.DESCRIPTORS),
    "dup2": ("dup2", None, Stage.DESCRIPTORS),
    "execve": ("execve", None, Stage.EXEC),
}
NOT_WITH_PAM = {"no_new_privs", "capbset_read", "capbset_drop"}


class Left:
    """What a start must not leave in the process that asked for it."""

    def __init__(self) -> None:
        self._before = self._now()

    def _now(self) -> tuple[list[int], list[int]]:
        gc.collect()  # descriptors of earlier tests are not for this one to count
        descriptors.forget_spare()  # an earlier test may have put some aside: numbers that move
        return descriptors.open_descriptors(), process.children()

    def check(self) -> None:
        assert self._now() == self._before


@pytest.fixture
def left() -> Iterator[Left]:
    found = Left()
    yield found
    found.check()


def refusing(monkeypatch: pytest.MonkeyPatch, where: Any, name: str, call: Where) -> list[int]:
    """From ``where.name`` on in launch children; the list holds the errno that is next."""
    number: list[int] = []
    original = getattr(where, name)
    test = os.getpid()

    def refused(*args: Any, **kwargs: Any) -> Any:
        if os.getpid() != test:
            seccomp.refuse(call[0], number[-1], call[1])
        return original(*args, **kwargs)

    monkeypatch.setattr(where, name, refused)
    return number


def start(user: User, folder: Path, **changes: Any) -> launching.Outcome:
    body = f"open({str(folder / 'ran')!r}, 'w')"
    snap = launching.snapshot(launching.script(folder, body), **changes)
    folder.chmod(0o777)
    return launching.run(launching.plan(snap, launching.request(f"{user.name}@example.org")))


def judge(outcome: launching.Outcome, stage: Stage, user: User, folder: Path, why: object) -> None:
    assert outcome.failed is not None, why
    assert (outcome.failed.stage, outcome.failed.code) == (stage.name, int(stage)), why
    assert outcome.code == int(stage), why
    assert outcome.failed.public == (
        f"Unable to start user endpoint process for {user.name}"
        f" [exit code: {int(stage)}; (PermissionError) see your system administrator]"
    ), why
    assert not (folder / "ran").exists(), why


@pytest.mark.parametrize("name", CALLS)
def test_D2_150_errnos_each_names_its_stage_and_leaks_nothing(
    harper: User, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, left: Left, name: str
) -> None:
    """From the drop on: 19 calls by 8 errnos."""
    call = CALLS[name]
    number = refusing(monkeypatch, main, "_become_uep", call)
    for each in NUMBERS:
        number.append(each)
        judge(start(harper, tmp_path), call[2], harper, tmp_path, (name, each))
        left.check()


@pytest.mark.parametrize(
    ("where", "name", "call"),
    [
        (process, "reset_scheduling", ("prctl", (0, syscalls.PR_SET_DUMPABLE), Stage.PREPARE)),
        (process, "reset_scheduling", ("memfd_create", None, Stage.PREPARE)),
        (process, "reset_scheduling", ("chdir", None, Stage.PREPARE)),
        (process, "die_with_parent", ("prctl", (0, syscalls.PR_SET_PDEATHSIG), Stage.PREPARE)),
        (main.rlimits, "usual_descriptors", ("prlimit64", None, Stage.PREPARE)),
    ],
)
def test_D2_before_the_drop(
    harper: User, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, left: Left,
    where: Any, name: str, call: Where,
) -> None:  # fmt: skip
    number = refusing(monkeypatch, where, name, call)
    for each in (errno.EPERM, errno.EINVAL, errno.ENOMEM):
        number.append(each)
        outcome = start(harper, tmp_path)
        assert outcome.failed is not None and outcome.failed.stage == "PREPARE", each
        assert outcome.code == int(Stage.PREPARE) and not (tmp_path / "ran").exists()
        left.check()


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Callable[[], str]]:
    """A PAM service that records what becomes of a session in ``record``."""
    need_root()
    script = tmp_path / "record.sh"
    script.write_text(f'#!/bin/sh\necho "$PAM_TYPE $(id -u)" >> {tmp_path / "record"}\n')
    script.chmod(0o755)
    lines = (
        "account required pam_permit.so", f"session required pam_exec.so seteuid {script}",
    )  # fmt: skip
    with ExitStack() as stack:
        yield lambda: stack.enter_context(pammodule.service(*lines))


@pytest.mark.parametrize("name", [n for n in CALLS if n not in NOT_WITH_PAM])
def test_D2_with_pam_the_session_is_closed(
    harper: User, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, left: Left,
    service: Callable[[], str], name: str,
) -> None:  # fmt: skip
    call = CALLS[name]
    number = refusing(monkeypatch, main, "_become_uep", call)
    pam = service()
    for each in (errno.EPERM, errno.EINVAL):
        number.append(each)
        outcome = start(harper, tmp_path, pam_enable=True, pam_service=pam)
        judge(outcome, call[2], harper, tmp_path, (name, each))
        record = tmp_path / "record"
        assert record.read_text().splitlines() == ["open_session 0", "close_session 0"]
        record.unlink()
        left.check()
