"""Acks that wait until the journal knows for good that their tasks are finished."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Protocol

from mepd.uep.taskfeed import Token


class Sync(Protocol):
    """Have the journal synced soon, then call; see mepd.uep.syncer.Syncer.request."""

    def __call__(self, then: Callable[[], None] | None = None) -> None: ...


def at_once(then: Callable[[], None] | None = None) -> None:
    """A Sync that is always done."""
    if then is not None:
        then()


class Acks:
    """``ack`` is called with deliveries, in the order in which they were settled."""

    def __init__(self, sync: Sync, ack: Callable[[list[Token]], None]) -> None:
        self._sync = sync
        self._ack = ack
        self._waiting: deque[list[Token]] = deque()

    def settled(self, tokens: list[Token]) -> None:
        """The journal has been written; each sync from now on is for these, too."""
        self._waiting.append(tokens)
        self._sync(self._synced)

    def _synced(self) -> None:
        if self._waiting:
            self._ack(self._waiting.popleft())

    def flush(self) -> None:
        """Wait no longer."""
        while self._waiting:
            self._synced()
