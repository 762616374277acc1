"""P1, R1: signals and deaths while PAM modules work, and session processes that are stopped."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from mepd.model import UepState
from mepd.posix import process
from tests.conftest import User, is_gone, need_root, wait_for
from tests.root import launching, pammodule
from tests.root.masterparts import REPORTER, Harness

UEP = REPORTER + "report()\ntime.sleep(600)\n"


class Slow:
    """A PAM module whose program takes until it is let go, when a session opens."""

    def __init__(self, folder: Path) -> None:
        self.record, self.opening = folder / "record", folder / "opening"
        script = folder / "slow.sh"
        script.write_text(
            f"#!/bin/sh\necho $PAM_TYPE >> {self.record}\n[ $PAM_TYPE = open_session ] || exit 0\n"
            f"echo $$ > {self.opening}\nwhile [ -e {self.opening} ]; do sleep 0.05; done\n"
        )
        script.chmod(0o755)
        self.lines = (
            "account required pam_permit.so",
            f"session required pam_exec.so seteuid {script}",
        )

    def is_busy(self) -> bool:
        return self.opening.exists() and bool(self.opening.read_text())

    def said(self) -> list[str]:
        return self.record.read_text().split()


@pytest.fixture
def slow(tmp_path: Path) -> Slow:
    need_root()
    return Slow(tmp_path)


@pytest.fixture
def service() -> Iterator[Callable[..., str]]:
    with ExitStack() as stack:
        yield lambda *lines: stack.enter_context(pammodule.service(*lines))


def launch(user: User, folder: Path, service: str, **changes: object) -> launching.Launch:
    snap = launching.snapshot(
        launching.script(folder, UEP), pam_enable=True, pam_service=service
    )
    request = launching.request(f"{user.name}@example.org")
    return launching.Launch(launching.plan(snap, request, **changes))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_P1_one_that_is_told_to_stop_while_the_session_opens_closes_it(
    harper: User, tmp_path: Path, slow: Slow, service: Callable[..., str], number: signal.Signals
) -> None:
    one = launch(harper, tmp_path, service(*slow.lines))
    try:
        one.stages_until_mapped()
        wait_for(slow.is_busy, 20)
        os.kill(one.launched.pid, number)
        slow.opening.unlink()
        assert one.stages().session is None
        one.wait()
    finally:
        one.close()
    assert os.WTERMSIG(one.outcome.status or 0) == number
    assert slow.said() == ["open_session", "close_session"]


@pytest.mark.parametrize("stopped", [False, True])
def test_R1_a_module_that_hangs_does_not_outlive_the_master(
    harper: User, tmp_path: Path, slow: Slow, service: Callable[..., str], stopped: bool
) -> None:
    """Nor does the program that it runs; of the session nothing had been opened then."""
    name = service(*slow.lines)

    def master() -> int:
        one = launch(harper, tmp_path, name, master_pid=os.getpid())
        one.stages_until_mapped()
        wait_for(slow.is_busy, 20)
        (tmp_path / "pid").write_text(str(one.launched.pid))
        signal.pause()
        return 0

    pid = process.fork(master)
    child = int(wait_for(lambda: (tmp_path / "pid").exists() and (tmp_path / "pid").read_text()))
    program = int(slow.opening.read_text())
    if stopped:
        os.kill(child, signal.SIGSTOP)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    wait_for(lambda: is_gone(child) and is_gone(program), 2, "the end of the module")
    assert slow.said() == ["open_session"]


def test_R1_a_module_that_blocks_all_signals_does_not_outlive_the_master(
    harper: User, tmp_path: Path, service: Callable[..., str]
) -> None:
    need_root()
    module = pammodule.build(tmp_path)
    name = service(*pammodule.misbehaving(module, "hang", "open", harper.name))

    def blocks(pid: int) -> bool:
        status = Path(f"/proc/{pid}/status").read_text()
        blocked = next(x for x in status.splitlines() if x.startswith("SigBlk"))
        return bool(int(blocked.split()[1], 16) & 1 << 14)

    def master() -> int:
        one = launch(harper, tmp_path, name, master_pid=os.getpid())
        one.stages_until_mapped()
        wait_for(lambda: blocks(one.launched.pid), 20)
        (tmp_path / "pid").write_text(str(one.launched.pid))
        signal.pause()
        return 0

    pid = process.fork(master)
    child = int(wait_for(lambda: (tmp_path / "pid").exists() and (tmp_path / "pid").read_text()))
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    wait_for(lambda: is_gone(child), 2, "the end of the module")


@pytest.fixture
def make(
    tmp_path: Path, slow: Slow, service: Callable[..., str]
) -> Iterator[Callable[[], Harness]]:
    """Makes a harness with sessions that are recorded, and open at once."""
    quick = [line.replace("slow.sh", "quick.sh") for line in slow.lines]
    script = tmp_path / "quick.sh"
    script.write_text(f"#!/bin/sh\necho $PAM_TYPE >> {slow.record}\n")
    script.chmod(0o755)
    with ExitStack() as stack:

        def build() -> Harness:
            snap = launching.snapshot(
                launching.script(tmp_path, UEP), pam_enable=True, pam_service=service(*quick)
            )
            made = Harness(snap)
            stack.callback(made.close)
            return made

        yield build


@pytest.mark.parametrize("end", ["dies", "stop", "kill"])
def test_P1_a_session_process_that_is_stopped_goes_on_when_its_uep_ends(
    make: Callable[[], Harness], harper: User, slow: Slow, end: str
) -> None:
    h = make()
    token = h.request(launching.request(f"{harper.name}@example.org"))
    h.run_until(lambda: token in h.settled)
    uep = h.uep()
    assert uep.state is UepState.RUNNING and uep.child != uep.process
    os.kill(uep.child.pid, signal.SIGSTOP)
    if end == "dies":
        os.kill(uep.process.pid, signal.SIGKILL)
    elif end == "stop":
        h.stopper.stop(uep, "test")
    else:
        h.stopper.kill(uep, "test")
    h.run_until(lambda: not len(h.table), 5)
    assert is_gone(uep.child.pid) and is_gone(uep.process.pid)
    assert bool(h.texts()) is (end != "stop" and end != "kill")
    assert slow.said() == ["open_session", "close_session"]
