"""User endpoints that fall silent with tasks open."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from mepd.gateway import registry, revive, taskstore
from mepd.gateway.locks import Locks
from mepd.gateway.presence import Presence
from mepd.gateway.revive import Reviver
from mepd.wire import message


class Store:
    async def aread(self, function: Any, *_: Any) -> Any:
        return SimpleNamespace() if function is registry.get_uep else ["a task"]


@pytest.mark.parametrize("listens", [True, False])
def test_A3_one_that_is_silent_in_an_alarm_of_the_broker_is_not_given_up(
    listens: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks: list[str] = []
    revived: list[str] = []

    async def is_listening(_link: Any, uep_id: str) -> bool:
        looks.append(uep_id)
        return listens

    async def run() -> None:
        any_: Any = None
        store: Any = Store()
        reviver = Reviver(store, any_, Presence(), any_, 1.0, Locks())

        async def strike(uep_id: str) -> int:
            revived.append(uep_id)
            raise revive.BrokerDown

        monkeypatch.setattr(reviver, "_strike", strike)
        reviver.gone("u")
        await asyncio.sleep(0.1)

    monkeypatch.setattr(revive, "is_listening", is_listening)
    monkeypatch.setattr(revive, "LISTENING_S", 0.02)
    asyncio.run(run())
    assert revived == ([] if listens else ["u"])
    assert len(looks) > 1 if listens else looks == ["u"]


class Tasks:
    """A store with one user endpoint. ``open``: its tasks without result; ``results``: whether
    one has come since whatever time is asked for."""

    def __init__(self) -> None:
        self.open: list[str] = []
        self.results = False

    async def aread(self, function: Any, *_: Any) -> Any:
        if function is taskstore.has_result_since:
            return self.results
        if function is registry.get_uep:
            return SimpleNamespace(
                id="u", endpoint_id="e", identity_id="ann", config={}, runtime={}
            )
        return self.open

    async def awrite(self, *_: Any) -> None:
        """What an emptied queue held."""


class Life:
    """A reviver with what it works on. ``texts``: what becomes of the tasks."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.tasks = Tasks()
        self.presence = Presence()
        self.texts: list[str] = []
        any_: Any = self
        store: Any = self.tasks
        self.reviver = Reviver(store, any_, self.presence, any_, 0.01, Locks())
        self.reviver.relay = any_
        self.session = self
        monkeypatch.setattr(revive, "is_listening", self.is_listening)

    async def is_listening(self, *_: Any) -> bool:
        return False

    async def call(self, *_: Any, **_more: Any) -> None:
        """The broker empties the queue."""

    async def ensure(self, uep: Any) -> None:
        """It is started."""
        self.reviver.online(uep.id)

    async def finish(self, results: list[tuple[str, str, bytes]]) -> None:
        self.texts += [message.unpack_result(body).data for _, _, body in results]
        self.tasks.open = []

    async def goes(self, reason: str = "") -> None:
        """It goes, and has been looked after."""
        self.reviver.gone("u", reason)
        async with asyncio.timeout(20):
            while self.reviver._work:
                await asyncio.sleep(0.005)


def test_tasks_are_told_no_reason_of_a_time_without_tasks(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def run() -> None:
        life = Life(monkeypatch)
        await life.goes("the template of last week")
        assert not life.reviver._reasons, "nor is it remembered for ever"
        life.tasks.open = ["t"]
        await life.goes()  # the endpoint is away as well
        assert [text.partition(": ")[2] for text in life.texts] == [
            "endpoint e has been offline for too long"
        ]

    asyncio.run(run())


@pytest.mark.parametrize("results", [True, False])
def test_tasks_are_told_no_reason_from_before_the_last_results(
    results: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def run() -> None:
        life = Life(monkeypatch)
        life.tasks.open = ["t"]
        life.presence.report("e", 30.0)
        await life.goes("killed yesterday")
        life.presence.goodbye("e")
        life.tasks.results = results
        await life.goes()
        assert [text.partition(": ")[2] for text in life.texts] == [
            "endpoint e has been offline for too long" if results else "killed yesterday"
        ]
        assert not life.reviver._reasons and not life.reviver._strikes

    asyncio.run(run())
