"""Start requests and launch children as the master sees them; the children are only played."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from mepd.config.launchplan import AccountPolicy, CredentialFile
from mepd.master import spawner
from mepd.master.endpoints import Endpoint
from mepd.master.history import Entry, History
from mepd.master.loop import Loop
from mepd.master.spawner import Launched
from mepd.master.starts import StartRules, Starts
from mepd.master.table import Uep, UepTable
from mepd.model import Stage, StartRequest, UepState
from mepd.posix import process
from mepd.posix.process import ProcessId
from mepd.wire import codec, start_request
from mepd.wire.activity import ActivityReport, Refreshed
from mepd.wire.framing import encode_frame
from mepd.wire.stages import Failed, Mapped, SessionOpened
from mepd.wire.worker import StartRequested
from tests.root import launching

NO_PID = 2**22 + 1
"""No process has it: it is above the kernel's limit."""
OPAQUE = "(PermissionError) see your system administrator"


class Rig:
    """Starts whose launch child is the test; ``notices`` are (text, tokens) to users."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 0.0
        self.settled: list[str] = []
        self.notices: list[tuple[str, list[str]]] = []
        self.killed: list[str] = []
        self.entries: list[Entry] = []
        self.unaudited: str | None = None
        self.audited: list[Uep] = []
        self.execed = False
        self.ended: dict[int, Callable[[int], None]] = {}
        self.table = UepTable()
        self.loop = Loop(lambda: self.now)
        self.endpoint = Endpoint(launching.snapshot(("x",)), launching.MEP)
        self.endpoints = {"test": self.endpoint}
        self._open: list[socket.socket] = []
        consumer: Any = SimpleNamespace(
            settle=lambda tokens: self.settled.extend(tokens),
            is_new=lambda token, request: True,
            notify_failure=lambda e, creds, text, tokens: self.notices.append(
                (text, sorted(tokens))
            ),
        )
        kill = lambda uep, reason: self.killed.append(reason)  # noqa: E731
        stopper: Any = SimpleNamespace(kill=kill, kill_soon=kill)
        self.ends: Any = SimpleNamespace(ended=lambda uep, status: None)
        reaper: Any = SimpleNamespace(watch=self.ended.__setitem__)
        audit: Any = SimpleNamespace(
            refusal=lambda endpoint: self.unaudited, watch=self.audited.append
        )
        records: Any = None
        history = History()
        history.listen(self.entries.append)
        rules = StartRules(AccountPolicy(), 0, 0, 30.0, False)
        self.starts = Starts(
            self.loop, reaper, self.table, consumer, stopper, self.ends, records, rules, 1,
            self.endpoints.get, history, audit,
        )  # fmt: skip
        monkeypatch.setattr(spawner, "launch", self._launch)
        monkeypatch.setattr(process, "exec_confirmed", lambda pid: self.execed)

    def _launch(self, plan: Any, records: Any, running: CredentialFile | None) -> Launched:
        stages, self.child = socket.socketpair()
        notify, self.uep_side = socket.socketpair()
        self._open += [self.child, self.uep_side]
        fd = os.open("/dev/null", os.O_RDONLY) if running is None else running.fd
        return Launched(NO_PID, stages, notify, None, CredentialFile(fd, "k"))

    def ask(self, request: StartRequest, token: str = "t") -> None:
        self.starts.requested(StartRequested(token, "test", start_request.to_json(request)))

    def begun(self) -> Uep:
        """A user endpoint whose launch child has said nothing yet."""
        self.ask(launching.request("harper@example.org"))
        (uep,) = list(self.table)
        return uep

    def say(self, *messages: Any) -> None:
        """The launch child speaks, and the master hears it."""
        self.child.sendall(b"".join(encode_frame(codec.encode(m)) for m in messages))
        self._turn()

    def child_gone(self) -> None:
        self.child.close()
        self._turn()

    def report(self, closing: bool = False) -> None:
        values = dict(received=0, outstanding=0, done=0, last_move=0.0, soft=0, hard=0)
        message = ActivityReport(**values, heartbeat_period=30.0, closing=closing)
        self.uep_side.sendall(encode_frame(codec.encode(message)))

    def _turn(self) -> None:
        self.loop.call_later(0.0, lambda: None)  # so that the turn does not wait
        self.loop._turn()

    def kinds(self) -> list[str]:
        return [entry.kind.value for entry in self.entries]

    def close(self) -> None:
        for uep in self.table:
            uep.release()
        for sock in self._open:
            sock.close()


@pytest.fixture
def rig(monkeypatch: pytest.MonkeyPatch) -> Iterator[Rig]:
    made = Rig(monkeypatch)
    yield made
    made.close()


@pytest.mark.parametrize("why", ["held", "shutting down"])
def test_left_with_the_broker(rig: Rig, why: str) -> None:
    """Neither settled nor answered: the delivery comes again."""
    rig.endpoint.held = why == "held"
    rig.starts.accepting = why != "shutting down"
    rig.ask(launching.request("harper@example.org"))
    assert not rig.settled and not rig.notices and not len(rig.table) and not rig.entries


@pytest.mark.parametrize("why", ["gone", "draining", "shutting down", ""])
def test_a_relaunch_only_where_requests_are_taken(rig: Rig, why: str) -> None:
    if why == "gone":
        rig.endpoints.clear()
    rig.endpoint.draining = why == "draining"
    rig.starts.accepting = why != "shutting down"
    rig.ends.relaunch("test", launching.request("harper@example.org"), {"t"})
    assert len(rig.table) == (0 if why else 1)
    assert not rig.settled and not rig.notices


def test_nothing_starts_whose_tasks_cannot_be_audited(
    rig: Rig, caplog: pytest.LogCaptureFixture
) -> None:
    rig.unaudited = "the audit log /a cannot be written: No space left on device"
    rig.ask(launching.request("harper@example.org"))
    assert not len(rig.table) and rig.endpoint.failures == 1
    ((text, tokens),) = rig.notices
    assert tokens == ["t"] and OPAQUE in text and "audit" not in text
    assert rig.unaudited in caplog.text
    assert [(e.kind.value, e.reason) for e in rig.entries] == [("failed", rig.unaudited)]


def test_a_start_that_takes_too_long_is_killed(rig: Rig) -> None:
    uep = rig.begun()
    rig.now = 31.0
    rig._turn()
    assert rig.killed == ["not ready within start_timeout (30 s)"]
    assert uep.failure is not None and uep.failure.stage == "TIMEOUT"
    assert "did not start in time" in uep.failure.public


def test_one_that_ends_already_is_not_too_slow(rig: Rig) -> None:
    uep = rig.begun()
    uep.state = UepState.STOPPING
    rig.now = 31.0
    rig._turn()
    assert not rig.killed and uep.failure is None


def test_the_last_failure_of_a_launch_child_counts(rig: Rig) -> None:
    uep = rig.begun()
    failed = Failed("CHDIR", int(Stage.CHDIR), "no such folder", "public")
    rig.say(failed)
    rig.execed = True
    rig.child_gone()
    assert uep.failure == failed and uep.stages is None
    assert uep.state is UepState.LAUNCHING and not rig.audited and not rig.entries


@pytest.mark.parametrize(
    "words",
    [
        [Refreshed()],
        [Refreshed(), Refreshed()],
        [SessionOpened(1)],
        [Mapped("", 0, 0, "")],
        [Mapped("harper", 1234, 1234, "i"), Mapped("root", 0, 0, "i")],
        [Mapped("harper", 1234, 1234, "i"), Refreshed()],
        [Mapped("harper", 1234, 1234, "i"), SessionOpened(1)],
    ],
)
def test_what_a_launch_child_says_out_of_order_is_its_end(rig: Rig, words: list[Any]) -> None:
    """It renders the user's options as the user: no word of it ends anybody else."""
    uep = rig.begun()
    child = uep.process
    rig.say(*words)
    if words == [Mapped("", 0, 0, "")]:
        rig.say(Mapped("root", 0, 0, ""), Mapped("root", 0, 0, ""))
    assert rig.killed == ["its launch child broke the protocol"]
    assert uep.process == child and uep.uid in (-1, 0, 1234) and not rig.settled


@pytest.mark.parametrize("parent", [NO_PID, 1])
def test_the_uep_of_a_session_process_is_its_child(
    rig: Rig, monkeypatch: pytest.MonkeyPatch, parent: int
) -> None:
    """Or gone by now; another's process is never what will be signalled."""
    uep = rig.begun()
    uep.lifeline = socket.socket()
    child = uep.process
    monkeypatch.setattr(process, "identify", lambda pid: ProcessId(pid, 5.0))
    monkeypatch.setattr(process, "parent_of", lambda pid: parent)
    rig.say(Mapped("harper", 1234, 1234, "i"), SessionOpened(77))
    assert uep.process == (ProcessId(77, 5.0) if parent == NO_PID else child)
    rig.say(SessionOpened(78))
    assert uep.process.pid != 78 and not rig.killed


def test_a_failure_as_long_as_a_frame_is_cut(rig: Rig) -> None:
    uep = rig.begun()
    rig.say(Failed("x" * 100, 70, "y" * 100_000, "z" * 100_000))
    assert uep.failure is not None
    assert (len(uep.failure.stage), len(uep.failure.reason), len(uep.failure.public)) == (
        50, 2000, 2000,
    )  # fmt: skip


def test_junk_from_a_launch_child_is_its_end(rig: Rig, caplog: pytest.LogCaptureFixture) -> None:
    uep = rig.begun()
    rig.child.sendall(b"\xff\xff\xff\xff")
    rig._turn()
    assert rig.killed == ["its launch child broke the protocol"]
    assert f"launch child of {uep.name}: " in caplog.text


def test_the_end_of_file_alone_is_no_start(rig: Rig) -> None:
    uep = rig.begun()
    rig.child_gone()
    assert uep.state is UepState.LAUNCHING and not rig.entries and not rig.settled


def test_one_that_never_reports_runs_from_its_exec_on(rig: Rig) -> None:
    rig.endpoint.snapshot = launching.snapshot(("/opt/bin/globus-compute-endpoint", "start"))
    uep = rig.begun()
    rig.execed = True
    rig.child_gone()
    assert uep.state is UepState.RUNNING and rig.settled == ["t"] and not uep.tokens
    assert rig.kinds() == ["started", "ready"] and rig.audited == [uep]
    rig.now = 31.0
    rig._turn()
    assert not rig.killed


def test_a_report_before_the_exec_was_seen(rig: Rig) -> None:
    """Both have come when the master looks; the exec is told first."""
    uep = rig.begun()
    rig.execed = True
    rig.report()
    rig.child.close()
    assert uep.notify is not None
    uep.notify.drain()
    assert rig.kinds() == ["started", "ready"] and rig.settled == ["t"]
    assert uep.state is UepState.RUNNING and uep.stages is None


def test_a_report_of_one_that_closes_is_no_start(rig: Rig) -> None:
    """As when its user ends it before it is ready: its start has failed, and is answered."""
    uep = rig.begun()
    rig.execed = True
    rig.child_gone()
    rig.report(closing=True)
    assert uep.notify is not None
    uep.notify.drain()
    assert uep.activity is not None and uep.activity.closing
    assert uep.state is UepState.STARTING and rig.kinds() == ["started"] and not rig.settled


def test_a_report_of_one_whose_exec_broke_the_protocol_is_no_start(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    uep = rig.begun()
    rig.report()
    rig.child.sendall(b"\xff\xff\xff\xff")

    def kill(which: Uep, reason: str) -> None:
        which.state = UepState.STOPPING

    monkeypatch.setattr(rig.starts._stopper, "kill", kill)
    assert uep.notify is not None
    uep.notify.drain()
    assert uep.state is UepState.STOPPING and not rig.settled and not rig.entries


def test_a_check_that_ended_without_a_word_is_answered(rig: Rig) -> None:
    uep = rig.begun()
    uep.state, uep.uid = UepState.RUNNING, 1000
    rig.ask(uep.request, "t2")
    assert list(rig.table) == [uep] and not rig.notices
    rig.ended[NO_PID](0)
    ((text, tokens),) = rig.notices
    assert tokens == ["t2"] and OPAQUE in text
    assert rig.entries[-1].reason == "the launch child ended before its word"
    assert uep.state is UepState.RUNNING and not rig.settled


def test_a_refused_fork_is_told_to_the_user(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: Any, **__: Any) -> Launched:
        raise BlockingIOError(11, "Resource temporarily unavailable")

    monkeypatch.setattr(spawner, "launch", refused)
    rig.ask(launching.request("harper@example.org"))
    ((text, tokens),) = rig.notices
    assert tokens == ["t"] and "(OSError) the system is out of resources" in text
    assert not len(rig.table) and rig.endpoint.failures == 1 and rig.endpoint.starts == 0
