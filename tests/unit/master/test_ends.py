"""User endpoints that end before their first report: what their users and others are told."""

from __future__ import annotations

import os
import signal
from types import SimpleNamespace
from typing import Any

import pytest

from mepd.master import stopping
from mepd.master.acting import Acting
from mepd.master.audit import Audit
from mepd.master.ends import Ends
from mepd.master.history import History, Kind
from mepd.master.loop import Loop
from mepd.master.stopping import Stopper
from mepd.master.table import Uep, UepTable
from mepd.model import UepState
from tests.unit.master.test_asking import ROOT, uep

ONE = "ab120000-0000-4000-8000-000000000001"
NOT_STARTED = "Unable to start user endpoint process for harper"


class Rig:
    """Ends of user endpoints that are processes of nobody's; what was said and begun anew."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, **keys: Any) -> None:
        self.notices: list[tuple[str, list[str]]] = []
        self.begun_anew: list[set[str]] = []
        self.uep: Uep = uep(ONE, tokens={"t"}, **{"execed": True, **keys})
        table = UepTable()
        table.add(self.uep)
        loop = Loop(lambda: 0.0)
        reaper: Any = SimpleNamespace(kill_strays=lambda *_: 0)
        consumer: Any = SimpleNamespace(
            notify_failure=lambda e, creds, text, tokens: self.notices.append(
                (text, sorted(tokens))
            )
        )
        self.history = History()
        self.stopper = Stopper(loop, table, 5.0, self.history)
        self.ends = Ends(loop, reaper, table, consumer, lambda name: None, self.history)
        self.ends.relaunch = lambda e, request, tokens: self.begun_anew.append(tokens)
        commander: Any = SimpleNamespace(table=table, stopper=self.stopper)
        self.verbs = Acting(commander).table()
        monkeypatch.setattr(stopping.process, "signal_process", lambda *_: True)
        monkeypatch.setattr(stopping.process, "kill_all", lambda _: None)

    def kinds(self) -> list[Kind]:
        return [e.kind for e in self.history.events()]


@pytest.mark.parametrize(
    ("args", "status", "how"),
    [
        ({}, 0, "exit code: 0"),
        ({}, int(signal.SIGTERM), "terminated by signal 15"),
        ({"now": True}, int(signal.SIGKILL), "terminated by signal 9"),
    ],
)
def test_one_that_mepctl_kills_before_its_first_report_is_told_and_not_begun_anew(
    monkeypatch: pytest.MonkeyPatch, args: dict[str, Any], status: int, how: str
) -> None:
    rig = Rig(monkeypatch, state=UepState.STARTING)
    rig.verbs["kill"].handler(ROOT, {"targets": [ONE], **args})
    rig.uep.activity = object()  # type: ignore[assignment]  # "closing" is no first report
    rig.ends.ended(rig.uep, status)
    assert rig.notices == [(f"{NOT_STARTED} [{how}]", ["t"])] and not rig.begun_anew
    assert rig.kinds() == [Kind.SIGNALLED, Kind.DIED]


@pytest.mark.parametrize("status", [0, int(signal.SIGTERM)])
def test_O3_one_that_is_killed_before_its_exec_is_a_start_that_failed(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, status: int
) -> None:
    rig = Rig(monkeypatch, state=UepState.LAUNCHING, execed=False)
    rig.history.listen(Audit().heard)
    rig.verbs["kill"].handler(ROOT, {"targets": [ONE]})
    rig.ends.ended(rig.uep, status)
    assert rig.kinds() == [Kind.SIGNALLED, Kind.FAILED] and len(rig.notices) == 1
    (entry,) = rig.history.failures()
    assert entry.stage == "LAUNCH" and "before its exec (mepctl kill by" in entry.reason
    assert caplog.text.count("audit start outcome=failed") == 1


def test_a_request_that_came_before_mepctl_kills_one_that_runs_is_begun_anew(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rig = Rig(monkeypatch, state=UepState.RUNNING, ready=True)
    rig.verbs["kill"].handler(ROOT, {"targets": [ONE]})
    rig.ends.ended(rig.uep, 0)
    assert rig.begun_anew == [{"t"}] and not rig.notices
    assert rig.kinds() == [Kind.SIGNALLED, Kind.STOPPED]


def test_one_that_mepd_ends_as_it_stops_is_left_to_the_next(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """relaunch() leaves the request with the broker then."""
    rig = Rig(monkeypatch, state=UepState.STARTING)
    rig.stopper.stop_all("mepd is shutting down", signal.SIGTERM)
    rig.ends.ended(rig.uep, 0)
    assert rig.begun_anew == [{"t"}] and not rig.notices


def test_one_that_ends_in_order_before_its_first_report_is_no_normal_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The audit trail has it as a start that failed, and so has its user."""
    rig = Rig(monkeypatch, state=UepState.STARTING)
    rig.ends.ended(rig.uep, os.EX_OK)
    (entry,) = rig.history.events()
    assert (entry.kind, entry.code) == (Kind.DIED, 0)
    assert entry.reason == "Command stopped normally before its first report"
    assert rig.notices == [(f"{NOT_STARTED} [exit code: 0]", ["t"])]


def test_one_that_never_reports_and_dies_was_started(monkeypatch: pytest.MonkeyPatch) -> None:
    """As globus-compute-endpoint, which runs from its exec on."""
    rig = Rig(monkeypatch, state=UepState.RUNNING, ready=True, reports=False)
    rig.ends.ended(rig.uep, int(signal.SIGSEGV))
    text = "User endpoint process for harper ended unexpectedly [terminated by signal 11]"
    assert rig.notices == [(text, ["t"])]
