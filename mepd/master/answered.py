"""Start requests whose outcome is known, by all that they say.

A consumer that dies takes acknowledgements along: the broker delivers again to the next one
what was answered already, and it must not be begun, or answered, twice.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable

from mepd.model import StartRequest
from mepd.wire import start_request

KEEP_S = 600.0
"""A good deal longer than a start request is taken for after it was sent."""


def _key(request: StartRequest) -> int:
    """Python's own hash of a text, which only this process can compute."""
    return hash(json.dumps(start_request.to_json(request), sort_keys=True))


class Answered:
    """Tokens are those of the present consumer, which knows by itself what it has settled;
    here it is of those before it. ``clock`` in seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._open: dict[str, int] = {}
        self._settled: dict[int, float] = {}
        self._before: set[int] = set()
        self._sent: set[str] = set()

    def is_new(self, token: str, request: StartRequest) -> bool:
        """Whether a delivery is to be begun; then it is remembered by its token."""
        key = _key(request)
        if key in self._before:
            return False
        self._open[token] = key
        return True

    def sent(self, token: str) -> None:
        """Its failure is on its way: known as told, should the consumer die now."""
        self._sent.add(token)

    def settled(self, token: str, told: bool) -> None:
        """It runs, or its user was ``told`` why not; else it may come again."""
        self._sent.discard(token)
        key = self._open.pop(token, None)
        if key is not None and told:
            self._prune()
            self._settled[key] = self._clock()

    def lost(self) -> None:
        """The consumer is gone, and with it every token."""
        for token in self._sent & self._open.keys():
            self._settled[self._open[token]] = self._clock()
        self._sent.clear()
        self._open.clear()
        self._prune()
        self._before = set(self._settled)

    def _prune(self) -> None:
        oldest = self._clock() - KEEP_S
        while self._settled:
            key = next(iter(self._settled))
            if self._settled[key] > oldest:
                return
            del self._settled[key]
