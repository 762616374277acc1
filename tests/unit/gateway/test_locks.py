"""Locks by name."""

from __future__ import annotations

import asyncio

from mepd.gateway.locks import Locks


def test_locks_are_held_by_name_and_forgotten() -> None:
    """There is a name for each configuration that anybody has ever used."""
    locks = Locks()
    log: list[str] = []

    async def work(name: str, number: int) -> None:
        async with locks.of(name):
            log.append(f"{name}{number} begins")
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            log.append(f"{name}{number} ends")

    async def run() -> None:
        await asyncio.gather(work("a", 1), work("a", 2), work("b", 1))

    asyncio.run(run())
    assert [line for line in log if line.startswith("a")] == [
        "a1 begins", "a1 ends", "a2 begins", "a2 ends"
    ]  # fmt: skip
    assert log.index("b1 begins") < log.index("a1 ends")
    assert len(locks) == 0
