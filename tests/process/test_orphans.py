"""Ending the orphans that a subreaper is given."""

from __future__ import annotations

import os
import signal
import time

import pytest

from mepd.master.reaper import Reaper
from mepd.posix import orphans, process
from tests.conftest import is_gone, need_root


def _forked(seconds: float) -> int:
    return process.fork(lambda: time.sleep(seconds) or 0)  # type: ignore[func-returns-value]


def test_end_gives_up_after_its_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """What cannot be killed (uninterruptible, ps(1)) must not hold who ends it for good."""
    others = process.children()
    pid = _forked(60)
    monkeypatch.setattr(process, "kill_each", lambda _: None)
    orphans.end(others, 0.05)
    assert not is_gone(pid)
    monkeypatch.undo()
    orphans.end(others)
    with pytest.raises(ChildProcessError):
        os.waitpid(pid, 0)


def test_those_known_are_left_alone() -> None:
    others = process.children()
    known, other = _forked(60), _forked(60)
    orphans.end([*others, known])
    assert is_gone(other) and not is_gone(known)
    os.kill(known, signal.SIGKILL)
    os.waitpid(known, 0)


def test_R2_nobody_is_spared_at_the_end_of_mepd() -> None:
    reaper = Reaper()
    reaper.spares = lambda _uid: True
    watched, stray = _forked(60), _forked(60)
    reaper.watch(watched, lambda _: None)
    assert reaper.strays() == [] and reaper.kill_strays() == 0
    reaper.end_strays()
    assert is_gone(stray) and not is_gone(watched)
    os.kill(watched, signal.SIGKILL)
    os.waitpid(watched, 0)


def test_an_orphan_that_somebody_else_reaped() -> None:
    pid = process.fork(lambda: 0)
    os.waitpid(pid, 0)
    assert orphans.reap(pid)


def test_one_that_lives_is_not_reaped() -> None:
    pid = _forked(60)
    assert not orphans.reap(pid)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)


def test_the_dead_are_gone_before_the_next_look(monkeypatch: pytest.MonkeyPatch) -> None:
    """Children that fork and exit are more at each look; who was dead is not looked at again."""
    others = process.children()
    looks: list[int] = []
    buried: list[None] = []

    def one_more() -> list[int]:
        pid = process.fork(lambda: 0)
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
        looks.append(len([p for p in children() if p not in others]))
        return children()

    children = process.children
    monkeypatch.setattr(process, "children", one_more)
    assert orphans.living(others, lambda: buried.append(None)) == []
    assert set(looks) == {1} and len(looks) == len(buried) < 1000


def test_what_the_last_of_the_dead_has_left_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """It became a child after the look at which its parent still lived."""
    others = process.children()
    dead, left = process.fork(lambda: 0), _forked(60)
    os.waitid(os.P_PID, dead, os.WEXITED | os.WNOWAIT)
    looks = iter([[*others, dead], [*others, left]])
    monkeypatch.setattr(process, "children", lambda: next(looks))
    assert orphans.living(others) == [left]
    monkeypatch.undo()
    os.kill(left, signal.SIGKILL)
    os.waitpid(left, 0)


def test_R2_they_are_looked_for_before_others_have_the_processor() -> None:
    """Two dozen that fork and exit without end leave an ordinary process none to catch them."""
    need_root()
    before = os.sched_getscheduler(0), os.getpriority(os.PRIO_PROCESS, 0)
    seen: list[int] = []
    assert orphans.freeze(lambda: seen.append(os.sched_getscheduler(0)) or []) == []
    assert seen == [os.SCHED_FIFO]
    assert (os.sched_getscheduler(0), os.getpriority(os.PRIO_PROCESS, 0)) == before
