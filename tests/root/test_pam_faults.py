"""PAM modules that hang, crash or spoil their process: one start fails, nobody else's."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from mepd.master import stopping
from mepd.model import UepState
from mepd.posix import process
from tests.conftest import User, is_gone, need_root, wait_for
from tests.root import launching, pammodule
from tests.root.masterparts import REPORTER, Harness

Make = Callable[..., Harness]
SLEEP = REPORTER + "report()\ntime.sleep(600)\n"


@pytest.fixture(scope="module")
def module(tmp_path_factory: pytest.TempPathFactory) -> Path:
    need_root()
    return pammodule.build(tmp_path_factory.mktemp("pam"))


@pytest.fixture
def make(tmp_path: Path, module: Path) -> Iterator[Make]:
    """Makes a harness with PAM, whose module misbehaves for one user."""
    made: list[Harness] = []
    with ExitStack() as stack:

        def build(
            what: str, when: str, user: User, more: Sequence[str] = (), **rules: Any
        ) -> Harness:
            lines = (*pammodule.misbehaving(module, what, when, user.name), *more)
            snap = launching.snapshot(
                launching.script(tmp_path, SLEEP),
                pam_enable=True,
                pam_service=stack.enter_context(pammodule.service(*lines)),
            )
            made.append(Harness(snap, **rules))
            return made[-1]

        yield build
        for harness in made:
            harness.close()


def ask(user: User) -> Any:
    return launching.request(f"{user.name}@example.org")


def test_P5_a_module_that_hangs_delays_nobody_else(
    make: Make, harper: User, jessie: User
) -> None:
    """It blocks every signal; its start fails at start_timeout, and all of it is gone."""
    h = make("hang", "open", harper, start_timeout=3.0)
    slow = h.request(ask(harper))
    child = h.uep().child
    others = {h.request(ask(jessie)) for _ in range(6)}
    h.run_until(lambda: others <= set(h.settled), 20)
    assert slow not in h.settled and not h.notices
    h.run_until(lambda: slow in h.settled, 20)
    (text,) = h.texts()
    assert f"for {harper.name} [exit code: 70; (TimeoutError)" in text
    wait_for(lambda: is_gone(child.pid), 5)
    assert [u.state for u in h.table] == [UepState.RUNNING] * 6


@pytest.mark.parametrize("when", ["acct", "setcred", "open"])
@pytest.mark.parametrize(
    "what", ["segfault", "abort", "exit", "close", "closeall", "uid", "euid"]
)
def test_P6_a_module_that_spoils_its_process_fails_one_start(
    make: Make, harper: User, jessie: User, what: str, when: str
) -> None:
    h = make(what, when, harper)
    good, bad = h.request(ask(jessie)), h.request(ask(harper))
    h.run_until(lambda: {good, bad} <= set(h.settled))
    (text,) = h.texts()
    assert text.startswith(f"Unable to start user endpoint process for {harper.name} [")
    how = {
        "segfault": "terminated by signal 11", "abort": "terminated by signal 6",
        "uid": "exit code: 71", "euid": "exit code: 71",
    }  # fmt: skip
    assert how.get(what, "exit code: ") in text
    (left,) = list(h.table)
    assert left.user == jessie.name and left.state is UepState.RUNNING
    h.run_until(lambda: not h.reaper.strays())
    # Nobody of the failed start is left, not even a UEP that nobody knows.
    family = process.descendants(os.getpid())
    assert {p.pid for p in family} == {left.child.pid, left.process.pid}
    again = h.request(ask(jessie))
    h.run_until(lambda: again in h.settled)
    assert len(h.table) == 2


@pytest.mark.parametrize("end", ["dies", "stop", "kill"])
def test_P5_a_module_that_hangs_when_the_session_closes(
    make: Make, harper: User, jessie: User, monkeypatch: pytest.MonkeyPatch, end: str
) -> None:
    """The name is free again after a while, and all of it is gone."""
    monkeypatch.setattr(stopping, "CLOSING_MAX", 1.0)
    h = make("hang", "close", harper)
    tokens = {h.request(ask(harper)), h.request(ask(jessie))}
    h.run_until(lambda: tokens <= set(h.settled))
    uep = next(u for u in h.table if u.user == harper.name)
    if end == "dies":
        os.kill(uep.process.pid, signal.SIGKILL)
    elif end == "stop":
        h.stopper.stop(uep, "test")
    else:
        h.stopper.kill(uep, "test")
    h.run_until(lambda: len(h.table) == 1)
    assert is_gone(uep.process.pid) and is_gone(uep.child.pid)
    assert [u.user for u in h.table] == [jessie.name]
    h.run_until(lambda: not h.reaper.strays())


@pytest.mark.parametrize("end", ["dies", "is told to stop"])
@pytest.mark.parametrize("when", ["acct", "setcred", "open"])
def test_P6_signals_that_a_module_leaves_blocked_hide_no_end(
    make: Make, harper: User, tmp_path: Path, when: str, end: str
) -> None:
    """The session process hears of its UEP's end, and passes on what it is told."""
    closed = tmp_path / "closed"
    script = tmp_path / "close.sh"
    script.write_text(f'#!/bin/sh\n[ "$PAM_TYPE" != close_session ] || id -u > {closed}\n')
    script.chmod(0o755)
    h = make("block", when, harper, more=[f"session required pam_exec.so seteuid {script}"])
    token = h.request(ask(harper))
    h.run_until(lambda: token in h.settled)
    uep = h.uep()
    assert uep.state is UepState.RUNNING
    if end == "dies":
        os.kill(uep.process.pid, signal.SIGKILL)
    else:
        os.kill(uep.child.pid, signal.SIGTERM)
    h.run_until(lambda: not list(h.table))
    assert closed.read_text() == "0\n"
    assert is_gone(uep.process.pid) and is_gone(uep.child.pid)


def test_P6_the_end_of_a_uep_is_told_though_a_module_blocks_signals_at_the_close(
    make: Make, harper: User, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    h = make("block", "close", harper)
    token = h.request(ask(harper))
    h.run_until(lambda: token in h.settled)
    os.kill(h.uep().process.pid, signal.SIGTERM)
    h.run_until(lambda: not list(h.table))
    assert any("terminated by signal: 15 " in text for text in caplog.messages), caplog.messages


def test_P6_a_module_that_crashes_when_the_session_closes(
    make: Make, harper: User, jessie: User
) -> None:
    h = make("segfault", "close", harper)
    tokens = {h.request(ask(harper)), h.request(ask(jessie))}
    h.run_until(lambda: tokens <= set(h.settled))
    uep = next(u for u in h.table if u.user == harper.name)
    os.kill(uep.process.pid, signal.SIGTERM)
    h.run_until(lambda: len(h.table) == 1)
    assert is_gone(uep.process.pid) and is_gone(uep.child.pid)
    assert [u.user for u in h.table] == [jessie.name]
