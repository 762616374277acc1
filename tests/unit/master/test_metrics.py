"""The numbers for Prometheus, read back by its own parser; the audit trail (bar O3)."""

from __future__ import annotations

import logging
import math
import re
from types import SimpleNamespace
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from mepd.config.settings import MetricsSection
from mepd.log import LineFormatter
from mepd.master import exposition
from mepd.master.audit import Audit
from mepd.master.history import History, Kind
from mepd.master.loop import Loop
from mepd.master.metrics import Metrics, Sources
from mepd.master.observers import Observers
from mepd.master.table import Uep, UepTable
from mepd.model import StartRequest, UepState
from mepd.posix.process import ProcessId

MEP, ONE = "4ade2ce0-9c00-4d8c-b996-4dff8fbb4bd0", "e9097f8f-dcfc-4bc0-9b42-0b4ad5e3922a"
NAME = f"uep.{MEP}.{ONE}"


def uep(name: str = NAME, user: str = "harper", state: UepState = UepState.RUNNING) -> Uep:
    request = StartRequest(name, MEP, ONE, "identity-1", "h@example.org", (), 0, {})
    return Uep(name, "gpu", request, ProcessId(2, 0.0), ProcessId(2, 0.0), "c", 0.0,
               state, user=user, uid=1000)  # fmt: skip


class Rig:
    def __init__(self, *ueps: Uep) -> None:
        self.gpu: Any = SimpleNamespace(name="gpu", online=True)
        restarts = {"amqp-consumer": 3}
        self.metrics = Metrics(
            Sources(lambda: ueps, lambda: [self.gpu], lambda: restarts, lambda: 7)
        )
        self.history = History()
        self.history.listen(self.metrics.heard)

    def samples(self) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
        return {
            (s.name, tuple(sorted(s.labels.items()))): s.value
            for family in text_string_to_metric_families(self.metrics.text())
            for s in family.samples
        }

    def value(self, name: str, **where: str) -> float | None:
        return self.samples().get((name, tuple(sorted(where.items()))))


def test_starts_failures_and_latency() -> None:
    rig = Rig()
    assert rig.value("mepd_starts_total", endpoint="gpu") == 0
    for seconds in (0.04, 0.3, 0.3, 100.0):
        rig.history.note_uep(Kind.READY, uep(), seconds=seconds)
    rig.history.note_uep(Kind.FAILED, uep(), stage="TEMPLATE", code=77, reason="no")
    rig.history.note(Kind.FAILED, "gpu", stage="REQUEST", reason="bad")
    assert rig.value("mepd_starts_total", endpoint="gpu") == 4
    assert rig.value("mepd_start_failures_total", endpoint="gpu", stage="TEMPLATE") == 1
    assert rig.value("mepd_start_failures_total", endpoint="gpu", stage="REQUEST") == 1
    bucket = "mepd_start_duration_seconds_bucket"
    assert [rig.value(bucket, endpoint="gpu", le=le) for le in ("0.05", "0.35", "60", "+Inf")] == [
        1, 3, 3, 4,
    ]  # fmt: skip
    assert rig.value("mepd_start_duration_seconds_count", endpoint="gpu") == 4
    total = rig.value("mepd_start_duration_seconds_sum", endpoint="gpu")
    assert total is not None and math.isclose(total, 100.64)


def test_ueps_by_state_and_user() -> None:
    rig = Rig(uep(), uep(user="jessie"), uep(user="jessie"), uep(user="", state=UepState.LAUNCHING))
    assert rig.value("mepd_ueps", state="RUNNING", user="harper") == 1
    assert rig.value("mepd_ueps", state="RUNNING", user="jessie") == 2
    assert rig.value("mepd_ueps", state="LAUNCHING", user="-") == 1


@pytest.mark.parametrize(
    ("reason", "label"),
    [
        ("hung: silent for 91 s", "hung"),
        ("idle for 360 s (idle_heartbeats_soft)", "soft"),
        ("idle for 172860 s (idle_heartbeats_hard)", "hard"),
        ("idle for 20 s", "asked"),
    ],
)
def test_reaps_by_reason(reason: str, label: str) -> None:
    rig = Rig()
    rig.history.note_uep(Kind.REAPED, uep(), reason=reason)
    assert rig.value("mepd_reaps_total", endpoint="gpu", reason=label) == 1


def test_reconnects_do_not_count_the_first_connection() -> None:
    rig = Rig()
    for kind in (Kind.ONLINE, Kind.OFFLINE, Kind.ONLINE, Kind.OFFLINE, Kind.ONLINE):
        rig.history.note(kind, "gpu")
    assert rig.value("mepd_broker_reconnects_total", endpoint="gpu") == 2
    rig.gpu.online = False
    assert rig.value("mepd_endpoint_online", endpoint="gpu") == 0


def test_workers_and_lost_lines() -> None:
    rig = Rig()
    assert rig.value("mepd_worker_restarts_total", worker="amqp-consumer") == 3
    assert rig.value("mepd_log_lines_lost_total") == 7


def test_nobody_makes_labels_without_end() -> None:
    rig = Rig()
    for n in range(1000):
        rig.history.note(Kind.FAILED, f"made up {n}", stage=f"stage {n}")
    assert rig.value("mepd_start_failures_total", endpoint="other", stage="other") == 1000
    assert len(rig.samples()) < 30


def test_labels_are_escaped() -> None:
    nasty = 'a"b\\c\nd{e}\udcff'
    family = exposition.Counter("x_total", "Help.")
    family.add(where=nasty)
    (parsed,) = text_string_to_metric_families(exposition.text([family]))
    assert parsed.samples[0].labels == {"where": 'a"b\\c\nd{e}\\udcff'}


def test_every_family_is_in_the_manual() -> None:
    from tests.unit.test_man import items, part

    said = " ".join(items(part("mepd.8", "Numbers")))
    page = part("mepd.8", "Numbers")
    names = re.findall(r"^# TYPE (\w+)", Rig().metrics.text(), re.M)
    assert len(names) > 8 and said
    assert all(name in page for name in names)


class Publisher:
    lost = restarts = 0

    def __init__(self) -> None:
        self.published: list[tuple[Any, str]] = []

    def publish(self, path: Any, text: str) -> None:
        self.published.append((path, text))


def test_the_file_follows_the_configuration(tmp_path: Any) -> None:
    section = [MetricsSection(tmp_path / "m.prom", 1.0)]
    loop, publisher = Loop(), Publisher()
    writer: Any = publisher
    made = Observers(
        loop, History(), UepTable(), lambda: [], lambda: [], writer, lambda: section[0]
    )
    made.begin()
    section[0] = MetricsSection()
    made.begin()
    assert publisher.published[0][0] == tmp_path / "m.prom"
    assert "mepd_build_info" in publisher.published[0][1]
    assert publisher.published[1] == (None, "")


def audited(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [r.message for r in caplog.records if r.name == "mepd.audit"]


@pytest.fixture
def history() -> History:
    made = History()
    made.listen(Audit().heard)
    return made


def test_O3_one_record_of_a_start(
    history: History, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.getLogger(), "level", logging.ERROR)  # does not suppress it
    for kind in (Kind.STARTED, Kind.READY, Kind.SIGNALLED, Kind.STOPPED):
        history.note_uep(kind, uep(), seconds=0.25)
    assert audited(caplog) == [
        f"audit start outcome=started uep={NAME} endpoint=gpu identity=identity-1"
        " username=h@example.org user=harper uid=1000 pid=2 seconds=0.25"
    ]


def test_O3_one_record_of_a_start_that_failed(
    history: History, caplog: pytest.LogCaptureFixture
) -> None:
    history.note_uep(
        Kind.FAILED, uep(user=""), stage="TEMPLATE", code=77, reason='no "x"\nforged', seconds=0.1
    )
    (said,) = audited(caplog)
    assert said.endswith(' stage=TEMPLATE code=77 seconds=0.1 reason="no \\"x\\" forged"')
    assert "\n" not in LineFormatter().format(caplog.records[0])


def test_O3_one_that_ended_before_its_first_report(
    history: History, caplog: pytest.LogCaptureFixture
) -> None:
    history.note_uep(Kind.STARTED, uep())
    history.note_uep(Kind.DIED, uep(), reason="Command return code: 1", stage="RUN", code=1)
    (said,) = audited(caplog)
    assert "outcome=failed" in said and "code=1" in said


def test_O3_anothers_failure_hides_none(
    history: History, caplog: pytest.LogCaptureFixture
) -> None:
    """A request for the name that is refused while the first has not reported."""
    history.note_uep(Kind.STARTED, uep())
    history.note(Kind.FAILED, "gpu", name=NAME, identity="another", stage="REFUSED")
    history.note_uep(Kind.DIED, uep(), reason="Command return code: 1", stage="RUN", code=1)
    refused, died = audited(caplog)
    assert "identity=another" in refused and "code=1" in died


def test_O3_asked_for_again(history: History, caplog: pytest.LogCaptureFixture) -> None:
    for kind in (Kind.STARTED, Kind.READY, Kind.REFRESHED, Kind.REFRESHED):
        history.note_uep(kind, uep())
    outcomes = [re.search(r"outcome=(\w+)", x)[1] for x in audited(caplog)]  # type: ignore[index]
    assert outcomes == ["started", "refreshed", "refreshed"]
