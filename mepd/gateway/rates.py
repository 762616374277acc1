"""How much one identity may ask for: requests in time, and submissions that wait."""

from __future__ import annotations

import contextlib
import math
import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator

from mepd.gateway.failures import too_many

REMEMBERED = 10_000
"""Identities, and tokens; the oldest are forgotten, that is, forgiven."""


class Rates:
    """A bucket for each identity: ``burst`` requests, filled again by ``rate`` a second."""

    def __init__(
        self, rate: float, burst: int, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._rate = rate
        self._burst = float(burst)
        self._clock = clock
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()  # level, when
        self._tokens: OrderedDict[str, str] = OrderedDict()

    def take(self, identity_id: str) -> None:
        """One request. Raises ApiError 429."""
        now = self._clock()
        level, then = self._buckets.pop(identity_id, (self._burst, now))
        level = min(self._burst, level + (now - then) * self._rate)
        allowed = level >= 1.0
        self._buckets[identity_id] = (level - 1.0 if allowed else level, now)
        _trim(self._buckets)
        if not allowed:
            wait = math.ceil((1.0 - level) / self._rate)
            raise too_many("Too many requests of this identity", wait)

    def take_early(self, token_hash: str) -> bool:
        """One request by a token that has been seen: refused before the store is asked.

        Returns whether the token was known. Raises ApiError 429.
        """
        identity_id = self._tokens.get(token_hash)
        if identity_id is not None:
            self.take(identity_id)
        return identity_id is not None

    def learn(self, token_hash: str, identity_id: str) -> None:
        self._tokens[token_hash] = identity_id
        _trim(self._tokens)

    def forget(self, token_hash: str) -> None:
        """The token has ended; its bearer is not to spend what is its former owner's."""
        self._tokens.pop(token_hash, None)


def _trim(table: OrderedDict[str, tuple[float, float]] | OrderedDict[str, str]) -> None:
    while len(table) > REMEMBERED:
        table.popitem(last=False)


class Waiting:
    """Submissions that wait for a start: at most ``limit``, a quarter of them of one
    identity."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._share = max(1, limit // 4)
        self._of: Counter[str] = Counter()

    @property
    def count(self) -> int:
        return self._of.total()

    @contextlib.contextmanager
    def one(self, identity_id: str) -> Iterator[None]:
        """Raises ApiError 429."""
        if self.count >= self._limit or self._of[identity_id] >= self._share:
            raise too_many("Too many submissions are waiting")
        self._of[identity_id] += 1
        try:
            yield
        finally:
            self._of[identity_id] -= 1
            if not self._of[identity_id]:
                del self._of[identity_id]
