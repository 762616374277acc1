"""User endpoints that fall silent with tasks open."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from types import SimpleNamespace
from typing import Any

import pytest

from mepd.gateway import registry, revive
from mepd.gateway.presence import Presence
from mepd.gateway.revive import Reviver


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
        reviver = Reviver(store, any_, Presence(), any_, 1.0, defaultdict(asyncio.Lock))

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
