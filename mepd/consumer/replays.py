"""Start requests that come again, byte for byte, after their outcome is known.

Whoever can copy a message of the queue could otherwise start a user endpoint again and
again, within the clock skew that a start request is allowed; and one whose ack was lost
with its channel would be begun twice, or refused for its age although it runs.
"""

from __future__ import annotations

import hashlib
import itertools
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from mepd.consumer.tokens import Token
from mepd.wire.start_request import MAX_SKEW_S

K = TypeVar("K")
V = TypeVar("V")
LATE_MAX = 5000
"""How many requests are known beyond the skew: those whose acks a broker that is away for
longer may have lost. About a megabyte."""
_PRUNE_S = 10.0


@dataclass(frozen=True)
class Fingerprint:
    """What makes two deliveries the same message. ``timestamp`` in s since the epoch."""

    digest: bytes
    timestamp: int


def fingerprint(properties: Any, body: bytes) -> Fingerprint:
    """Of any message (AMQP 0-9-1, basic properties); one without a timestamp has 0."""
    told = f"{properties.timestamp}\n{properties.message_id}\n".encode("utf-8", "backslashreplace")
    return Fingerprint(hashlib.sha256(told + body).digest(), properties.timestamp or 0)


class Replays:
    """Outlives the channels of a link; forgets what is old, but for the last LATE_MAX.

    What is still open on a channel that broke is no replay when it comes again: the broker
    asks for it to be done.
    """

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._open: dict[Token, Fingerprint] = {}
        self._settled: dict[bytes, int] = {}
        self._pruned = clock()

    def is_replay(self, message: Fingerprint, generation: str) -> bool:
        """Whether it was settled already, or is being worked on for the same channel."""
        return message.digest in self._settled or any(
            told.digest == message.digest and token.generation == generation
            for token, told in self._open.items()
        )

    def handed_over(self, token: Token, message: Fingerprint) -> None:
        self._prune()
        self._open[token] = message

    def settled(self, token: Token) -> None:
        """Also for a token whose channel is gone."""
        message = self._open.pop(token, None)
        if message is not None:
            self._settled[message.digest] = message.timestamp

    def forget(self, token: Token) -> None:
        """It came to nothing, and nobody knows."""
        self._open.pop(token, None)

    def _prune(self) -> None:
        now = self._clock()
        if abs(now - self._pruned) < _PRUNE_S:
            return
        self._pruned = now
        oldest = now - MAX_SKEW_S
        _trim(self._settled, lambda at: at < oldest)
        _trim(self._open, lambda message: message.timestamp < oldest)


def _trim(known: dict[K, V], old: Callable[[V], bool]) -> None:
    """Forget the first that are more than LATE_MAX, if they are old."""
    surplus = itertools.islice(known.items(), max(0, len(known) - LATE_MAX))
    for key in [key for key, value in surplus if old(value)]:
        del known[key]
