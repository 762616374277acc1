"""Work in batches: while one batch is at the database, the next gathers."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

from mepd.gateway.failures import StoreUnavailable

log = logging.getLogger(__name__)
T = TypeVar("T")
RETRY_S = 1.0


class Batcher(Generic[T]):
    """Calls ``work`` with all items that came since its last call, never twice at a time.

    A batch that finds the store unavailable is tried again, before anything newer. One
    that fails otherwise is tried item by item: what one sender sends is not the others'.
    """

    def __init__(
        self, name: str, work: Callable[[list[T]], Awaitable[None]], limit: int = 2000
    ) -> None:
        self._name = name
        self._work = work
        self._limit = limit
        self._items: list[T] = []
        self._wake = asyncio.Event()

    def add(self, *items: T) -> None:
        self._items.extend(items)
        self._wake.set()

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            await self._wake.wait()
            batch, self._items = self._items[:self._limit], self._items[self._limit:]
            if not self._items:
                self._wake.clear()
            await self._do(batch)

    async def _do(self, batch: list[T]) -> None:
        while batch:
            try:
                await self._work(batch)
            except StoreUnavailable as e:
                log.error("%s: %s; trying again", self._name, e)
                await asyncio.sleep(RETRY_S)
                continue
            except Exception as e:
                if len(batch) == 1:
                    log.exception("%s: one failed", self._name)
                    return
                log.error("%s: %d failed together: %s", self._name, len(batch), type(e).__name__)
                for item in batch:
                    await self._do([item])
            return
