"""Programs that cannot start, that end, and that nobody may start any more; no real process."""

from __future__ import annotations

import gc
import os
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from mepd.config.settings import ProgramSection
from mepd.master import program_child, programs, spawner
from mepd.master.asking import Caller
from mepd.master.programs import Program
from mepd.master.programset import ProgramSet
from mepd.master.steering import Steering
from mepd.model import ProgramState
from mepd.posix.peer import Peer

NO_PID = 2**22 + 1
"""No process has it: it is above the kernel's limit."""
EXIT_3 = 3 << 8
ROOT = Caller(Peer(1, 0, 0), True)


class Rig:
    """A program whose forks are counted, in a loop whose timers fire when told."""

    def __init__(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, **keys: Any) -> None:
        self.timers: list[tuple[float, Callable[[], None]]] = []
        self.ended: list[Callable[[int], None]] = []
        self.forks: list[Callable[[], int]] = []
        self.refuse: OSError | None = None
        self.word = b""
        loop: Any = SimpleNamespace(clock=lambda: 7.0, call_later=self._later)
        reaper: Any = SimpleNamespace(
            watch=lambda pid, callback: self.ended.append(callback), kill_strays=lambda: 0
        )
        monkeypatch.setattr(spawner, "program", self._fork)
        section = ProgramSection(name="p", command=("/bin/true",), **keys)
        self.program = Program(loop, reaper, section, tmp_path)

    def _later(self, delay: float, callback: Callable[[], None]) -> Any:
        item = (delay, callback)
        self.timers.append(item)
        return SimpleNamespace(cancel=lambda: self.timers.remove(item))

    def _fork(self, title: str, run: Callable[[], int], _: Path, lifeline: Any) -> int:
        if self.refuse is not None:
            raise self.refuse
        if self.word:
            lifeline.send(self.word)
        self.forks.append(run)
        return NO_PID

    def fire(self) -> None:
        ((_, callback),) = self.timers
        callback()

    def release(self) -> None:
        if self.program._lifeline is not None:
            self.program._lifeline.close()


def test_one_that_runs_is_not_forked_again(tmp_path: Path, monkeypatch: Any) -> None:
    rig = Rig(tmp_path, monkeypatch)
    rig.program.start()
    rig.fire()
    rig.program.start()
    assert len(rig.forks) == 1 and rig.program.state is ProgramState.RUNNING
    rig.release()


def test_R6_a_program_whose_fork_is_refused_is_tried_until_it_is_not(
    tmp_path: Path, monkeypatch: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """It has not failed: else it would be down for good once the system has room again."""
    rig = Rig(tmp_path, monkeypatch, startretries=1)
    rig.program.start()
    rig.fire()
    rig.refuse = BlockingIOError(11, "Resource temporarily unavailable")
    gc.collect()  # what earlier tests left open is not closed meanwhile
    before = len(os.listdir("/proc/self/fd")) - 1  # the lifeline of the one that runs
    rig.ended[0](EXIT_3)
    for _ in range(10):
        assert len(os.listdir("/proc/self/fd")) == before
        assert rig.program.state is ProgramState.BACKOFF and rig.program.process is None
        assert rig.timers[0][0] < 1.0
        rig.fire()
    assert caplog.text.count("program p: cannot start: [Errno 11]") == 1
    rig.refuse = None
    rig.fire()
    assert rig.program.state is ProgramState.STARTING
    rig.release()


def test_R6_a_program_whose_guards_fork_is_refused_has_not_failed(
    tmp_path: Path, monkeypatch: Any
) -> None:
    rig = Rig(tmp_path, monkeypatch, startretries=0)
    rig.word = b"[Errno 11] Resource temporarily unavailable"
    rig.program.start()
    rig.ended.pop()(program_child.REFUSED << 8)
    assert rig.program.state is ProgramState.BACKOFF
    assert rig.program.description == rig.word.decode()
    rig.word = b""  # the same code is the program's own
    rig.fire()
    rig.ended.pop()(program_child.REFUSED << 8)
    assert rig.program.state is ProgramState.FATAL


@pytest.mark.parametrize("autorestart", [True, False])
def test_the_end_of_one_that_ran(tmp_path: Path, monkeypatch: Any, autorestart: bool) -> None:
    rig = Rig(tmp_path, monkeypatch, autorestart=autorestart)
    rig.program.start()
    rig.fire()
    rig.ended[0](EXIT_3)
    if autorestart:
        assert rig.program.state is ProgramState.STARTING and len(rig.forks) == 2
    else:
        assert rig.program.state is ProgramState.EXITED and len(rig.forks) == 1
        assert rig.program.description == "Command return code: 3"
        assert rig.program.process is None and not rig.timers
    rig.release()


def test_an_end_that_is_told_twice_changes_nothing(tmp_path: Path, monkeypatch: Any) -> None:
    rig = Rig(tmp_path, monkeypatch, autorestart=False)
    rig.program.start()
    rig.fire()
    rig.ended[0](EXIT_3)
    rig.ended[0](EXIT_3)
    assert rig.program.state is ProgramState.EXITED and len(rig.forks) == 1


def test_nothing_is_killed_where_nothing_runs(
    tmp_path: Path, monkeypatch: Any, caplog: pytest.LogCaptureFixture
) -> None:
    killed: list[Any] = []
    monkeypatch.setattr(programs.process, "kill_tree", killed.append)
    rig = Rig(tmp_path, monkeypatch)
    rig.program.kill()
    assert not killed and not caplog.records
    rig.program.start()
    rig.program.kill()
    assert [p.pid for p in killed] == [NO_PID] and "killing it" in caplog.text
    rig.release()


class Fake:
    """A program that ends when it is told, and says so when the test wants it."""

    def __init__(self, section: ProgramSection) -> None:
        self.section = section
        self.process: int | None = 1
        self.state = ProgramState.STOPPING
        self.log: list[str] = []
        self.when_stopped: Callable[[], None] = lambda: None

    def start(self) -> None:
        self.process = 1
        self.log.append("start")

    start_anew = start

    def stop(self) -> None:
        self.log.append("stop")

    def end(self) -> None:
        self.process, self.state = None, ProgramState.STOPPED
        self.when_stopped()


def section(priority: int) -> ProgramSection:
    return ProgramSection(name="p", command=("/bin/true",), priority=priority)


def one() -> tuple[list[Fake], ProgramSet]:
    """A set with one program; the list gets every one that is made."""
    made: list[Fake] = []

    def make(wanted: ProgramSection) -> Any:
        made.append(Fake(wanted))
        return made[-1]

    return made, ProgramSet(make, [section(1)])


def changed() -> tuple[list[Fake], ProgramSet]:
    """A set whose only program is stopping, to make room for another form of it."""
    made, programset = one()
    programset.change([section(2)])
    return made, programset


def test_a_changed_program_begins_when_the_former_has_ended() -> None:
    made, programset = changed()
    assert made[0].log == ["stop"] and len(made) == 1 and programset.find("p") is None
    made[0].end()
    assert made[1].log == ["start"] and programset.programs == [made[1]]
    assert programset.find("p") is made[1]


def test_after_the_close_nothing_begins() -> None:
    made, programset = changed()
    programset.close()
    made[0].end()
    assert len(made) == 1 and programset.programs == []


def test_one_that_made_room_and_is_stopped_again_by_the_shutdown() -> None:
    """The shutdown may have listed it before it went."""
    made, programset = changed()
    made[0].end()
    programset.close()
    made[0].end()
    assert len(made) == 2 and programset.programs == [made[1]]


@pytest.mark.parametrize("what", ["", "changed", "removed", "shutdown"])
def test_a_restart_starts_only_what_still_is_to_run(what: str) -> None:
    """While the program ends, mepd.conf may change, or mepd itself be told to stop."""
    made, programset = one()
    looks: list[Callable[[], None]] = []
    loop = SimpleNamespace(
        clock=lambda: 0.0, call_later=lambda delay, callback: looks.append(callback)
    )
    config = SimpleNamespace(programs=programset, knows=lambda name: False, endpoints={})
    commander: Any = SimpleNamespace(config=config, loop=loop)
    answer = Steering(commander).table()["restart"].handler(ROOT, {"name": "p"})
    said: list[Any] = []
    answer.then(said.append)
    if what == "shutdown":
        programset.close()
    elif what:
        programset.change([section(2)] if what == "changed" else [])
    made[0].end()
    looks.pop()()
    assert ("start" in made[0].log) == (what == "")
    assert len(made) == (2 if what == "changed" else 1)
    refusal = "program p is not started: it was changed meanwhile, or mepd stops"
    assert [str(error) for error in said] == ([refusal] if what else [])
