"""What a change of mepd.conf does to the rest of the master, and how often its faults are told."""

from __future__ import annotations

import logging
import os
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from mepd.config import ini
from mepd.config.watchplan import WatchPlan
from mepd.errors import ConfigError
from mepd.master import liveconfig
from mepd.master.liveconfig import LiveConfig
from mepd.wire import worker as wire

CONF = """\
[mepd]
logfile = %(here)s/mepd.log
pidfile = %(here)s/mepd.pid
loglevel = {level}
[service]
url = {url}
"""
GOOD = {"level": "info", "url": "http://127.0.0.1:1"}


class Host:
    """What is served, and adopted, in order."""

    def __init__(self) -> None:
        self.done: list[Any] = []
        self.used = False

    def serve(self, endpoint: Any) -> None:
        self.done.append(("serve", endpoint.name))

    def drain(self, endpoint: Any) -> None:
        self.done.append(("drain", endpoint.name))

    def drop(self, endpoint: Any) -> None:
        self.done.append(("drop", endpoint.name))

    def in_use(self, endpoint: Any) -> bool:
        return self.used

    def rules_for(self, settings: Any) -> Any:
        return None

    def adopt(self, settings: Any, rules: Any) -> None:
        self.done.append(("adopt", settings.mepd.loglevel))


class Rig:
    def __init__(self, folder: Path) -> None:
        self.conf = folder / "mepd.conf"
        self.write()
        self.host = Host()
        self.restarts = 0
        self.now = 0.0
        self.timers: list[tuple[float, Any]] = []
        loop: Any = SimpleNamespace(
            call_every=lambda period, callback: None, clock=lambda: self.now,
            call_later=lambda delay, callback: self.timers.append((self.now + delay, callback)),
        )  # fmt: skip
        make: Any = None
        self.live = LiveConfig(loop, self.host, ini.load(self.conf, {}), [], make, False)

    def run_due(self) -> None:
        due = [timer for timer in self.timers if timer[0] <= self.now]
        self.timers = [timer for timer in self.timers if timer not in due]
        for _, callback in due:
            callback()

    def write(self, **values: str) -> None:
        self.conf.write_text(CONF.format(**{**GOOD, **values}))

    def endpoint(self, name: str, **keys: Any) -> Any:
        snapshot = SimpleNamespace(directory=Path("/e") / name, name=name, files={})
        given = {"draining": False, "held": False, "stopped": False, "by_hand": True, **keys}
        made = SimpleNamespace(name=name, snapshot=snapshot, **given)
        self.live.endpoints[name] = made
        return made

    def watched(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Have a watcher, whose restarts count."""
        def restart() -> None:
            self.restarts += 1

        worker: Any = SimpleNamespace(restart=restart, send=lambda message: True, replacing=False)
        self.live.begin(worker)
        plans = iter(range(1000))  # each one another
        monkeypatch.setattr(LiveConfig, "_plan", lambda live: next(plans))
        monkeypatch.setattr(liveconfig.watchplan, "identity", lambda plan: plan)


@pytest.fixture
def rig(tmp_path: Path) -> Rig:
    return Rig(tmp_path)


def test_another_service_is_told_to_all_that_are_served(rig: Rig) -> None:
    rig.endpoint("gpu")
    rig.endpoint("old", draining=True)
    rig.write(url="http://127.0.0.1:2")
    rig.live._reread_settings()
    assert ("serve", "gpu") in rig.host.done and ("serve", "old") not in rig.host.done
    rig.host.done.clear()
    rig.write(url="http://127.0.0.1:2", level="debug")
    rig.live._reread_settings()
    assert rig.host.done == [("adopt", "debug")]


def test_a_fault_is_told_once_and_its_end_too(
    rig: Rig, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    rig.conf.write_text("[mepd]\nlogfil = /x\n")
    for _ in range(3):
        rig.live.poll()
    assert caplog.text.count("configuration not reloaded") == 1 and "logfil" in caplog.text
    assert not rig.host.done and rig.live.settings.mepd.loglevel == "info"
    report: list[dict[str, Any]] = []
    rig.live.reload(report.append)
    assert caplog.text.count("configuration not reloaded") == 2, "who asks is told again"
    assert "logfil" in str(report)
    rig.write()
    rig.live.poll()
    assert caplog.text.count("is good again") == 1 and rig.live.files.error == ""


def test_a_word_of_the_watcher_that_means_nothing_here(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    rig.watched(monkeypatch)
    rig.live._from_watcher(wire.Pong())
    assert not rig.host.done


def test_a_drained_endpoint_that_went_is_watched_no_longer(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    rig.endpoint("gpu", draining=True)
    rig.watched(monkeypatch)
    rig.host.used = True
    rig.live.forget_drained("gpu")
    assert "gpu" in rig.live.endpoints and rig.restarts == 0
    rig.host.used = False
    rig.live.forget_drained("gpu")
    assert "gpu" not in rig.live.endpoints and rig.restarts == 1
    rig.live.forget_drained("gpu")
    assert rig.restarts == 1


def test_an_account_that_is_missing_is_a_fault_of_the_file(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_rules(settings: Any) -> Any:
        raise KeyError("[mepd] user: there is no account nosuch")

    monkeypatch.setattr(rig.host, "rules_for", no_rules)
    with pytest.raises(ConfigError, match="there is no account nosuch"):
        rig.live._read_settings()
    os.unlink(rig.conf)
    with pytest.raises(ConfigError, match=r"mepd\.conf"):
        rig.live._read_settings()
    assert replace(rig.live.settings) == rig.live.settings


def test_changes_without_end_are_looked_at_now_and_then(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A rereading takes some milliseconds, which a watcher could ask for all the time."""
    rig.watched(monkeypatch)
    read: list[list[str]] = []
    monkeypatch.setattr(
        rig.live._reloader, "reread_changed", lambda endpoints, paths: read.append(paths)
    )
    monkeypatch.setattr(liveconfig.watchplan, "plan_for", lambda paths: WatchPlan())
    polled: list[float] = []
    monkeypatch.setattr(rig.live, "poll", lambda: polled.append(rig.now))
    for turn in range(100):
        rig.now = turn / 100
        for n in range(3):
            rig.live._from_watcher(wire.Changed([f"/e/{turn}.{n}"]))
        rig.run_due()
    assert len(read) == 5 and not polled
    rig.now = 1.5
    rig.run_due()
    assert sum(map(len, read)) == 300, "none is forgotten"
    rig.live._from_watcher(wire.Changed([f"/e/{n}" for n in range(400_000)]))
    rig.now = 2.0
    rig.run_due()
    assert len(read[-1]) == liveconfig._PATHS_MAX and polled == [2.0]


def test_an_answer_that_was_not_asked_for_costs_nothing(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    rig.watched(monkeypatch)
    for _ in range(10):
        rig.live._from_watcher(wire.Validated("v1", "bad"))
    assert rig.restarts == 0
