"""SIGKILL, SIGSTOP and exceptions at each step of a start, in the launch child and in the
session process; and the master's death while one of them is stopped."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from mepd.launch import environment, handoff, main, mapping, render, report, session
from mepd.model import Stage, UepState
from mepd.posix import accounts, descriptors, guard, process, programs, rlimits, syscalls
from tests.conftest import User, is_gone, need_root, wait_for
from tests.root import launching, pammodule
from tests.root.masterparts import REPORTER, Harness

Step = tuple[Any, str]
# In the order of a start, with the stage that an exception there is told as.
STEPS: dict[Step, Stage] = {
    (descriptors, "null_stdio"): Stage.PREPARE,
    (descriptors, "close_all_but"): Stage.PREPARE,
    (process, "reset_scheduling"): Stage.PREPARE,
    (descriptors, "memory_file"): Stage.PREPARE,
    (mapping, "map_identities"): Stage.PREPARE,
    (accounts, "lookup"): Stage.PREPARE,
    (report.StageSocket, "verdict"): Stage.PREPARE,
    (rlimits, "apply"): Stage.PREPARE,
    (main, "_become_uep"): Stage.PREPARE,
    (main, "become"): Stage.PREPARE,
    (syscalls, "drop_bounding_set"): Stage.HOST_AUTH,
    (accounts, "set_groups"): Stage.INITGROUPS,
    (accounts, "set_gid"): Stage.HOST_AUTH,
    (accounts, "set_uid"): Stage.SETUID,
    (accounts, "prove_irreversible"): Stage.REGAIN,
    (syscalls, "capset_none"): Stage.HOST_AUTH,
    (syscalls, "set_no_new_privs"): Stage.HOST_AUTH,
    (os, "setsid"): Stage.SETSID,
    (os, "umask"): Stage.UMASK,
    (environment, "build"): Stage.PREPARE,
    (render, "configuration"): Stage.PREPARE,
    (render, "render"): Stage.TEMPLATE,
    (os, "mkdir"): Stage.CONFIG,
    (handoff, "_document"): Stage.STDIN,
    (descriptors, "fill_and_seal"): Stage.STDIN,
    (descriptors, "open_log"): Stage.LOG,
    (programs, "find_program"): Stage.EXEC,
    (descriptors, "place"): Stage.DESCRIPTORS,
    (rlimits, "allow_core"): Stage.PARENT,
    (os, "execve"): Stage.EXEC,
}
# With PAM, in the process that becomes the session's: after the modules' work.
SESSION_STEPS: list[Step] = [
    (session, "stand_guard"), (guard.Guard, "__init__"), (process, "fork"),
    (report.StageSocket, "close"), (session.setproctitle, "setproctitle"),
    (guard.Guard, "watch"), (process, "identify"), (guard, "_forward"),
]  # fmt: skip
WITHOUT_PAM = ("drop_bounding_set", "set_no_new_privs")
UEP = REPORTER + "report()\ntime.sleep(600)\n"


def named(step: Step) -> str:
    return step[1]


FORK, LIVE = process.fork.__code__, process._live.__code__


def lives() -> bool:
    """Not so in the fork itself, where coverage has work of its own."""
    frame = sys._getframe()
    while frame.f_back is not None and frame.f_code not in (FORK, LIVE):
        frame = frame.f_back
    return frame.f_code is LIVE


class Injected:
    """Does something in launch children, once in each, when they come to one step."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.step: Step | None = None
        self.when: Callable[[], bool] = lambda: True
        self.act: Callable[[], None] = lambda: None
        self._patch = monkeypatch
        self._test = os.getpid()
        self._patched: set[tuple[int, str]] = set()

    def at(self, step: Step) -> None:
        """For the children that are forked from now on."""
        self.step = step
        where, name = step
        if (id(where), name) in self._patched:
            return
        self._patched.add((id(where), name))
        original = getattr(where, name)
        done: list[int] = []

        def patched(*args: Any, **kwargs: Any) -> Any:
            me = os.getpid()
            mine = self._test != me and self.step == step and me not in done
            if mine and lives() and self.when():
                done.append(me)
                self.act()
            return original(*args, **kwargs)

        self._patch.setattr(where, name, patched)


def stop() -> None:
    os.kill(os.getpid(), signal.SIGSTOP)


@pytest.fixture
def injected(monkeypatch: pytest.MonkeyPatch) -> Injected:
    return Injected(monkeypatch)


@pytest.fixture
def record(tmp_path: Path) -> Path:
    return tmp_path / "record"


@pytest.fixture
def service(tmp_path: Path, record: Path) -> Iterator[str]:
    """A PAM service that records what becomes of its sessions."""
    need_root()
    script = tmp_path / "record.sh"
    script.write_text(f'#!/bin/sh\necho "$PAM_TYPE" >> {record}\n')
    script.chmod(0o755)
    lines = ("account required pam_permit.so", f"session required pam_exec.so seteuid {script}")
    with pammodule.service(*lines) as name:
        yield name


@pytest.fixture
def make(tmp_path: Path, service: str) -> Iterator[Callable[..., Harness]]:
    with ExitStack() as stack:

        def build(with_pam: bool, **rules: Any) -> Harness:
            snap = launching.snapshot(
                launching.script(tmp_path, UEP), pam_enable=with_pam, pam_service=service
            )
            made = Harness(snap, **rules)
            stack.callback(made.close)
            return made

        yield build


def ask(user: User) -> Any:
    return launching.request(f"{user.name}@example.org")


def judge_end(h: Harness, record: Path) -> None:
    """Nothing is left of the starts, and another start works."""
    h.run_until(lambda: not len(h.table) and not h.reaper.strays())
    assert not process.descendants(os.getpid())
    if record.exists():
        said = record.read_text().split()
        assert said.count("open_session") == said.count("close_session"), said


@pytest.mark.parametrize("with_pam", [False, True])
def test_L3_a_start_that_is_stopped_at_any_step_ends_in_time(
    make: Callable[..., Harness], injected: Injected, harper: User, record: Path, with_pam: bool
) -> None:
    h = make(with_pam, start_timeout=8.0)
    injected.act = stop
    steps = [s for s in STEPS if not with_pam or s[1] not in WITHOUT_PAM]
    tokens = set()
    for step in steps:
        injected.at(step)
        tokens.add(h.request(ask(harper)))
    h.run_until(lambda: tokens <= set(h.settled), 60)
    texts = h.texts()
    assert len(texts) == len(steps)
    assert all("[exit code: 70; (TimeoutError)" in text for text in texts), texts
    judge_end(h, record)
    injected.step = None
    good = h.request(ask(harper))
    h.run_until(lambda: good in h.settled)
    assert h.uep().state is UepState.RUNNING


def test_P1_a_session_process_that_is_stopped_before_its_uep_runs(
    make: Callable[..., Harness], injected: Injected, harper: User, record: Path
) -> None:
    """The start fails in time, and the session is closed."""
    h = make(True, start_timeout=5.0)
    injected.act, injected.when = stop, lambda: os.geteuid() == 0 and record.exists()
    for step in SESSION_STEPS:
        if step[1] in ("stand_guard", "__init__", "fork", "close", "watch"):
            record.unlink(missing_ok=True)
            injected.at(step)
            token = h.request(ask(harper))
            if step[1] in ("close", "watch"):  # that UEP runs
                h.run_until(lambda token=token: token in h.settled)  # type: ignore[misc]
                h.stopper.stop(h.uep(), "test")
            h.run_until(lambda: not len(h.table))
            assert token in h.settled
            assert record.read_text().split() == ["open_session", "close_session"], step
    assert len(h.texts()) == 3 and all("(TimeoutError)" in text for text in h.texts())
    judge_end(h, record)


@pytest.mark.parametrize("with_pam", [False, True])
def test_A1_a_start_that_is_killed_at_any_step_is_answered_once(
    make: Callable[..., Harness], injected: Injected, harper: User, record: Path, with_pam: bool
) -> None:
    h = make(with_pam)
    injected.act = lambda: os.kill(os.getpid(), signal.SIGKILL)
    steps = [s for s in STEPS if not with_pam or s[1] not in WITHOUT_PAM]
    for step in steps:
        injected.at(step)
        token = h.request(ask(harper))
        h.run_until(lambda token=token: token in h.settled)  # type: ignore[misc]
        assert h.texts()[-1].endswith("[terminated by signal 9]"), (step, h.texts())
    assert len(h.texts()) == len(steps)
    judge_end(h, record)


@pytest.mark.parametrize("with_pam", [False, True])
@pytest.mark.parametrize("error", [RuntimeError, OSError, MemoryError])
def test_an_exception_at_any_step_names_its_stage(
    make: Callable[..., Harness], injected: Injected, harper: User, record: Path,
    with_pam: bool, error: type[Exception],
) -> None:  # fmt: skip
    def fail() -> None:
        raise error("a secret place")

    h = make(with_pam)
    injected.act = fail
    for step, stage in STEPS.items():
        if with_pam and step[1] in WITHOUT_PAM:
            continue
        injected.at(step)
        token = h.request(ask(harper))
        h.run_until(lambda token=token: token in h.settled)  # type: ignore[misc]
        assert f"[exit code: {int(stage)}; " in h.texts()[-1], (step, h.texts()[-1])
        assert stage is Stage.TEMPLATE or "secret" not in h.texts()[-1]
    judge_end(h, record)


@pytest.mark.parametrize("step", SESSION_STEPS, ids=named)
@pytest.mark.parametrize("error", [RuntimeError, OSError])
def test_P1_an_exception_in_the_session_process_closes_the_session(
    make: Callable[..., Harness], injected: Injected, harper: User, record: Path,
    step: Step, error: type[Exception],
) -> None:  # fmt: skip
    """The start fails, or the UEP ends; nobody of it is left, and nobody else is concerned."""

    def fail() -> None:
        raise error("injected")

    h = make(True)
    injected.act, injected.when = fail, lambda: os.geteuid() == 0 and record.exists()
    injected.at(step)
    token = h.request(ask(harper))
    h.run_until(lambda: token in h.settled)
    if step[1] == "_forward":
        os.kill(h.uep().child.pid, signal.SIGHUP)
    h.run_until(lambda: not len(h.table))
    assert h.texts(), "its user is told"
    assert record.read_text().split() == ["open_session", "close_session"]
    judge_end(h, record)


def stopped(pid: int) -> bool:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"


def held_at_each(
    injected: Injected, steps: list[Step], what: Callable[[], Any], pids: Path
) -> int:
    """A master in a process of its own, whose launch children have stopped, each at its step."""

    def master() -> int:
        launches = []
        for step in steps:
            injected.at(step)
            launches.append(launching.Launch(what()))
        for launch in launches:
            launch.launched.stages.setblocking(False)
        waiting = list(launches)
        while waiting:
            for launch in list(waiting):
                family = process.trees([launch.launched.pid])
                if any(stopped(p.pid) for p in family):
                    waiting.remove(launch)
                elif launch.outcome.mapped is None and launch.has_spoken():
                    launch.stages_until_mapped()
            time.sleep(0.01)
        family = process.trees([launch.launched.pid for launch in launches])
        pids.write_text(" ".join(str(p.pid) for p in family))
        time.sleep(600)
        return 0

    return process.fork(master)


@pytest.mark.parametrize("with_pam", [False, True])
def test_R1_launch_children_that_are_stopped_do_not_outlive_the_master(
    injected: Injected, harper: User, tmp_path: Path, service: str, record: Path, with_pam: bool
) -> None:
    """At each step; nor do session processes that are stopped."""
    steps = [s for s in STEPS if not with_pam or s[1] not in WITHOUT_PAM]
    if with_pam:
        steps += [s for s in SESSION_STEPS if s[1] in ("stand_guard", "__init__", "watch")]
    snap = launching.snapshot(
        launching.script(tmp_path, UEP), pam_enable=with_pam, pam_service=service
    )
    pids = tmp_path / "pids"
    injected.act = stop
    pid = held_at_each(
        injected, steps,
        lambda: launching.plan(snap, ask(harper), master_pid=os.getpid()), pids,
    )  # fmt: skip
    try:
        wait_for(lambda: pids.exists() and pids.read_text(), 60, "all to be held")
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    family = [int(p) for p in pids.read_text().split()]
    assert len(family) >= len(steps)
    # So many sessions that are closed at once take a busy machine a while.
    wait_for(lambda: all(map(is_gone, family)), 20, "the end of what was held")
    if with_pam:
        said = record.read_text().split()
        assert said.count("open_session") == said.count("close_session") > 20
