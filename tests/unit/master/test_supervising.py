"""The master put together, without its loop: what it makes of words, ends and faults."""

from __future__ import annotations

import gc
import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from mepd.config.settings import ControlSection, MepdSection, Settings
from mepd.errors import WireError
from mepd.master import spawner
from mepd.master.supervisor import Supervisor
from mepd.master.workers import Worker
from mepd.posix import process, syscalls
from mepd.posix.accounts import Account
from mepd.posix.notify import Notifier
from mepd.posix.process import ProcessId
from mepd.wire import worker as wire
from tests.root import launching


class Rig:
    """A supervisor of the endpoint "test", whose workers never start; ``sent`` is what the
    consumer was told."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(syscalls, "set_subreaper", lambda: None)
        self.socket = folder / "sock"
        settings = Settings(
            folder / "mepd.conf", MepdSection(logfile=folder / "mepd.log"),
            ControlSection(file=self.socket),
        )  # fmt: skip
        log_writer: Any = SimpleNamespace(
            attach=lambda *_: None, publish=lambda *_: None, alert="", lost=0, restarts=0
        )
        account = Account("mepd", os.geteuid() + 1, 100, "", "/", "/bin/false")
        directory = folder / "test"
        directory.mkdir()
        snapshot = launching.snapshot(("x",), directory=directory)
        self.it = Supervisor(settings, [snapshot], account, False, Notifier({}), log_writer)
        self.endpoint = self.it.endpoints["test"]
        self.sent: list[Any] = []
        monkeypatch.setattr(Worker, "send", lambda worker, m: self.sent.append(m) or True)

    def hear(self, message: Any) -> None:
        self.it._from_consumer(message)

    def events(self) -> list[tuple[str, str]]:
        return [(e.kind.value, e.reason) for e in self.it.history.events()]


@pytest.fixture
def rig(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Rig]:
    made = Rig(tmp_path, monkeypatch)
    yield made
    made.it._records.reader.close()


def test_a_registered_endpoint_is_announced_once(
    rig: Rig, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    for _ in range(2):
        rig.hear(wire.EndpointRegistered("test", launching.MEP))
    assert rig.endpoint.registered
    assert caplog.text.count(f"Endpoint Manager begins: {launching.MEP}") == 1


def test_a_refused_registration_is_the_endpoints_state(rig: Rig) -> None:
    rig.hear(wire.EndpointOnline("test", True))
    assert rig.endpoint.online and rig.endpoint.registered
    for _ in range(2):
        rig.hear(wire.RegistrationFailed("test", "403 Forbidden", True))
    assert not rig.endpoint.online and not rig.endpoint.registered
    assert rig.endpoint.reason == "403 Forbidden"
    assert rig.events() == [("online", ""), ("offline", "403 Forbidden")]


def test_a_request_that_the_consumer_refused_is_counted(rig: Rig) -> None:
    rig.hear(wire.RequestRefused("test", "too old"))
    assert rig.endpoint.failures == 1 and rig.events() == [("failed", "too old")]


def test_words_of_an_endpoint_that_is_gone_mean_nothing(rig: Rig) -> None:
    rig.hear(wire.RequestRefused("other", "too old"))
    rig.hear(wire.EndpointOnline("other", True))
    rig.hear(wire.OwnIdentities("test", ["me"]))
    assert rig.endpoint.failures == 0 and not rig.endpoint.online and not rig.events()
    assert rig.endpoint.own_identities == ("me",)


@pytest.mark.parametrize(
    ("draining", "used", "kinds"),
    [
        (False, False, [wire.ServeEndpoint]),
        (True, True, [wire.ServeEndpoint, wire.DrainEndpoint]),
        (True, False, [wire.DrainEndpoint]),
    ],
)
def test_what_a_new_consumer_is_told(
    rig: Rig, monkeypatch: pytest.MonkeyPatch, draining: bool, used: bool, kinds: list[type]
) -> None:
    """A draining endpoint has its link only for the ends of its user endpoints."""
    rig.endpoint.draining = draining
    monkeypatch.setattr(rig.it, "in_use", lambda endpoint: used)
    rig.it._consumer_up()
    assert [type(message) for message in rig.sent] == kinds
    assert {message.name for message in rig.sent} == {"test"}


def test_in_an_emergency_everything_is_killed(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    killed: list[Any] = []
    monkeypatch.setattr(process, "kill_all", killed.extend)
    one, two, three, four = (ProcessId(pid, 1.0) for pid in (1, 2, 3, 4))
    uep: Any = SimpleNamespace(name="uep.a", child=one)
    rig.it.table.add(uep)
    monkeypatch.setattr(rig.it._task_audit, "processes", lambda: [two])
    rig.it.workers[0].process = three
    rig.it.programs.append(SimpleNamespace(process=four))  # type: ignore[arg-type]
    rig.it.programs.append(SimpleNamespace(process=None))  # type: ignore[arg-type]
    rig.it.emergency()
    assert killed == [one, two, three, four]


def test_what_a_worker_says_at_length_leaves_status_an_answer(rig: Rig) -> None:
    for reason in ("a" * 5_000_000, "b" * 5_000_000):
        rig.hear(wire.EndpointOnline("test", False, reason))
    assert len(rig.endpoint.reason) == 1000
    assert len(json.dumps(rig.it.status())) < 10_000


def test_an_id_that_is_anothers_is_no_word_of_a_worker(rig: Rig) -> None:
    with pytest.raises(WireError):
        rig.hear(wire.EndpointRegistered("test", launching.MEP.replace("4", "5")))
    assert rig.endpoint.endpoint_id == launching.MEP and not rig.endpoint.registered


def test_a_stop_that_takes_too_long_is_ended_and_has_its_code(
    rig: Rig, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    killed: list[Any] = []
    monkeypatch.setattr(rig.it, "emergency", lambda: killed.append("all"))
    rig.it.loop.call_later(0.0, rig.it._overdue)
    rig.it.loop.run()
    assert killed == ["all"] and rig.it.exit_code == os.EX_SOFTWARE
    assert "took too long" in caplog.text


def test_an_emergency_that_meets_a_fault_is_an_end_all_the_same(
    rig: Rig, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refused(_: Any) -> None:
        raise OSError(23, "Too many open files in system")

    monkeypatch.setattr(process, "kill_all", refused)
    rig.it.emergency()
    assert "not all could be killed" in caplog.text


@pytest.mark.parametrize("listening", [True, False])
def test_it_leaves_with_its_code_and_takes_only_its_own_socket_along(
    rig: Rig, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, listening: bool
) -> None:
    caplog.set_level("INFO")
    started: list[str] = []
    monkeypatch.setattr(Worker, "start", lambda worker: started.append(worker.name))
    monkeypatch.setattr(spawner, "preload_launch", lambda: None)
    monkeypatch.setattr(gc, "freeze", lambda: None)
    monkeypatch.setattr(rig.it, "_install_signals", lambda: None)
    if listening:
        monkeypatch.setattr(os, "chown", lambda *_: None)
        rig.it.listen()
    else:
        rig.socket.write_text("another's")
    rig.it.exit_code = 70
    rig.it.loop.call_later(0.0, rig.it.loop.stop)
    assert rig.it.run(False) == 70
    assert started == ["amqp-consumer", "config-watcher"] and "mepd stopped" in caplog.text
    assert rig.socket.exists() != listening


def test_signals_have_their_meanings(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    meant: dict[int, Any] = {}
    monkeypatch.setattr(rig.it.loop, "on_signal", meant.__setitem__)
    monkeypatch.setattr(signal, "signal", meant.__setitem__)
    monkeypatch.setattr(signal, "pthread_sigmask", lambda how, which: meant.update({0: which}))
    begun: list[int] = []
    monkeypatch.setattr(rig.it._shutdown, "begin", begun.append)
    rig.it._install_signals()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT):
        meant[number]()
    assert begun == [signal.SIGTERM, signal.SIGINT, signal.SIGQUIT]
    others = (signal.SIGPIPE, signal.SIGALRM, signal.SIGTSTP, signal.SIGRTMIN, signal.SIGRTMAX)
    assert {meant[number] for number in others} == {signal.SIG_IGN} and not rig.it.starts.accepting
    assert meant[signal.SIGHUP] == rig.it.reload
    assert set(meant[0]) <= set(meant), "none is let through that nobody handles"


@pytest.mark.parametrize(("period", "wait"), [(86400.0, 10.0), (30.0, 10.0), (6.0, 2.0)])
def test_R4_a_long_heartbeat_of_one_hides_no_other_that_hangs(
    rig: Rig, monkeypatch: pytest.MonkeyPatch, period: float, wait: float
) -> None:
    waits: list[float] = []
    one: Any = SimpleNamespace(name="a", activity=SimpleNamespace(heartbeat_period=period))
    rig.it.table.add(one)
    monkeypatch.setattr(rig.it.loop, "call_later", lambda delay, _: waits.append(delay))
    monkeypatch.setattr(rig.it.stopper, "reap_idle", lambda: None)
    rig.it._look_at_idle()
    assert waits == [wait]
