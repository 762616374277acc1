"""A start request for a user endpoint that runs: what becomes of it."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from mepd.master.rechecks import Rechecks
from mepd.model import UepState


class Child(SimpleNamespace):
    """A set may hold it, as it may a Uep."""

    __hash__ = object.__hash__  # type: ignore[assignment]


class Rig:
    def __init__(self) -> None:
        self.table: dict[str, Any] = {}
        self.calls: list[tuple[Any, ...]] = []
        self.endpoint: Any = SimpleNamespace(snapshot=SimpleNamespace(grace_period=30.0))
        note = self.calls.append
        loop: Any = SimpleNamespace(clock=lambda: 100.0)
        consumer: Any = SimpleNamespace(
            settle=lambda tokens: note(("settle", sorted(tokens))),
            notify_failure=lambda e, creds, text, tokens: note(("notice", text, sorted(tokens))),
        )
        history: Any = SimpleNamespace(note_uep=lambda kind, uep, **more: note((kind.name,)))
        self.rechecks = Rechecks(
            loop, self.table, consumer, history, lambda name: self.endpoint,  # type: ignore
            lambda e, request, tokens: note(("once more", e, sorted(tokens))),
            lambda e, request, tokens: note(("refuse", e, sorted(tokens))),
        )  # fmt: skip
        self.told: list[Any] = []
        self.running: Any = SimpleNamespace(
            name="uep.a", uid=1000, user="harper", endpoint="gpu", about={}, tokens=set(),
            state=UepState.RUNNING, process=SimpleNamespace(pid=7), revive=None, revive_until=0.0,
            notify=SimpleNamespace(send_message=lambda m: note(("told", type(m).__name__))),
        )  # fmt: skip
        self.check: Any = Child(
            comes_again=False,
            name="uep.a", endpoint="gpu", tokens={"t"}, failure=None, started=99.0, about={},
            request=SimpleNamespace(amqp_creds={}), release=lambda: None,
            stages=SimpleNamespace(send_message=self.told.append),
        )  # fmt: skip


@pytest.fixture
def rig() -> Rig:
    return Rig()


def mapped(uid: int) -> Any:
    return SimpleNamespace(uid=uid, user=f"u{uid}")


def test_its_own_is_refreshed_and_kept_for_the_grace_period(rig: Rig) -> None:
    rig.table["uep.a"] = rig.running
    rig.rechecks.mapped(rig.check, rig.running, mapped(1000))
    assert rig.told[0].refresh and not rig.calls
    assert rig.running.revive is rig.check.request and rig.running.revive_until == 130.0
    rig.rechecks.refreshed(rig.check, rig.running)
    assert rig.calls == [("REFRESHED",), ("told", "Refreshed"), ("settle", ["t"])]
    assert rig.check.tokens == set()


def test_of_an_endpoint_that_is_gone_there_is_no_grace(rig: Rig) -> None:
    rig.table["uep.a"], rig.endpoint = rig.running, None
    rig.rechecks.mapped(rig.check, rig.running, mapped(1000))
    assert rig.running.revive_until == 100.0


def test_another_accounts_is_not_touched(rig: Rig, caplog: pytest.LogCaptureFixture) -> None:
    rig.table["uep.a"] = rig.running
    rig.rechecks.mapped(rig.check, rig.running, mapped(2000))
    assert not rig.told[0].refresh and rig.running.revive is None
    assert rig.calls == [("FAILED",), ("settle", ["t"])] and "maps to u2000" in caplog.text


@pytest.mark.parametrize("another", [None, SimpleNamespace(name="uep.a")], ids=["none", "next"])
def test_one_that_ended_meanwhile_is_asked_for_once_more(rig: Rig, another: Any) -> None:
    rig.rechecks.mapped(rig.check, rig.running, mapped(1000))
    assert not rig.told[0].refresh and rig.running.revive is None
    rig.rechecks.refreshed(rig.check, rig.running)
    assert not rig.calls and rig.check.tokens == {"t"}
    rig.table["uep.a"] = another
    rig.rechecks.ended(rig.check, rig.running)
    assert rig.calls == [("once more", "gpu", ["t"])]


def test_one_that_has_not_reported_yet_answers_for_both(rig: Rig) -> None:
    rig.table["uep.a"] = rig.running
    rig.running.state, rig.running.notify = UepState.STARTING, None
    rig.rechecks.refreshed(rig.check, rig.running)
    assert rig.running.tokens == {"t"} and rig.calls == [("REFRESHED",)]
    rig.rechecks.ended(rig.check, rig.running)
    assert rig.calls == [("REFRESHED",)], "it was answered"


def test_a_check_that_ends_without_a_word_or_fails(rig: Rig) -> None:
    rig.table["uep.a"] = rig.running
    rig.rechecks.ended(rig.check, rig.running)
    assert rig.calls == [("refuse", "gpu", ["t"])]
    rig.check.tokens = {"t2"}
    rig.check.failure = SimpleNamespace(stage="MAP", code=77, reason="secret", public="no")
    rig.rechecks.ended(rig.check, rig.running)
    assert rig.calls[1:] == [("FAILED",), ("notice", "no", ["t2"])]


def test_A1_a_failure_of_one_that_comes_again_is_not_told(rig: Rig) -> None:
    """Its consumer has died, and the broker gives it to the next one."""
    rig.rechecks.open.add(rig.check)
    rig.check.tokens, rig.check.comes_again = set(), True
    rig.check.failure = SimpleNamespace(stage="MAP", code=77, reason="secret", public="no")
    rig.rechecks.ended(rig.check, rig.running)
    assert rig.calls == [("FAILED",)] and not rig.rechecks.open
