"""A program of mepd.conf between its fork and its exec."""

from __future__ import annotations

import os
import socket
import sys
from types import SimpleNamespace
from typing import Any

import pytest

from mepd.config.settings import ProgramSection
from mepd.master import program_child
from mepd.posix import process
from mepd.posix.accounts import Account


def section(**keys: Any) -> ProgramSection:
    return ProgramSection(**{"name": "p", "command": ("/bin/true",), **keys})


@pytest.mark.parametrize("own", [True, False])
def test_rights_are_dropped_unless_they_are_the_programs_own(monkeypatch: Any, own: bool) -> None:
    uid = os.geteuid() + (0 if own else 1)
    account = Account("someone", uid, 100, "", "/", "/bin/sh")
    dropped: list[Account] = []
    monkeypatch.setattr(program_child.accounts, "lookup", lambda name: account)
    monkeypatch.setattr(program_child.accounts, "drop_for_good", dropped.append)
    watcher = SimpleNamespace(watch=lambda *_: 0)
    monkeypatch.setattr(program_child.guard, "Guard", lambda master: watcher)
    monkeypatch.setattr(program_child.process, "fork", lambda child: 1)
    nobody: Any = None
    assert program_child.run(section(user="someone"), nobody, 1) == 0
    assert dropped == ([] if own else [account])


def test_its_environment_is_its_accounts_and_its_own() -> None:
    harper = Account("harper", 1000, 1000, "", "/home/harper", "/bin/sh")
    env = program_child._environment(section(environment=(("A", "1"), ("HOME", "/srv"))), harper)
    assert (env["USER"], env["LOGNAME"], env["HOME"], env["A"]) == ("harper", "harper", "/srv", "1")
    root = program_child._environment(section(), None)
    assert root.keys() == {"PATH", "HOME", "USER"} and root["HOME"] == "/root"


def test_one_that_cannot_be_executed_says_why(capfd: Any) -> None:
    me = os.getpid()

    def end_of(**keys: Any) -> tuple[int, str]:
        def child() -> int:
            sys.stderr = open(2, "w", buffering=1, closefd=False)  # pytest's is closed
            return program_child._exec(section(**keys), None, me)

        pid = process.fork(child)
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        return code, capfd.readouterr().err

    code, said = end_of(command=("/no/such/program",))
    assert code == 126 and said == (
        "mepd: program p: /no/such/program: No such file or directory\n"
    )
    code, said = end_of(directory="/no/such/folder")
    assert code == 126 and "No such file or directory" in said
    assert end_of() == (0, "")


def test_R6_a_guard_whose_fork_is_refused_says_so(monkeypatch: Any) -> None:
    def fork(_: Any) -> int:
        raise BlockingIOError(11, "Resource temporarily unavailable")

    monkeypatch.setattr(program_child.guard, "Guard", lambda master: None)
    monkeypatch.setattr(program_child.process, "fork", fork)
    ours, theirs = socket.socketpair()
    with ours, theirs:
        assert program_child.run(section(), theirs, 1) == program_child.REFUSED
        assert ours.recv(500) == b"[Errno 11] Resource temporarily unavailable"
