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

    A batch that finds the store unavailable is tried again, before anything newer.
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
            while batch and not await self._try(batch):
                await asyncio.sleep(RETRY_S)

    async def _try(self, batch: list[T]) -> bool:
        try:
            await self._work(batch)
        except StoreUnavailable as e:
            log.error("%s: %s; trying again", self._name, e)
            return False
        except Exception:
            log.exception("%s: a batch of %d failed", self._name, len(batch))
        return True
