"""Start requests that come again, byte for byte, after their outcome is known.

Whoever can copy a message of the queue could otherwise start a user endpoint again and
again, within the clock skew that a start request is allowed; and one whose ack was lost
with its channel would be begun twice.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from mepd.consumer.tokens import Token
from mepd.wire.start_request import MAX_SKEW_S

_PRUNE_S = 10.0


@dataclass(frozen=True)
class Fingerprint:
    """What makes two deliveries the same message. ``timestamp`` in s since the epoch."""

    digest: bytes
    timestamp: int


def fingerprint(properties: Any, body: bytes) -> Fingerprint:
    """Of a message with a checked timestamp (AMQP 0-9-1, basic properties)."""
    told = f"{properties.timestamp}\n{properties.message_id}\n".encode("utf-8", "backslashreplace")
    return Fingerprint(hashlib.sha256(told + body).digest(), properties.timestamp)


class Replays:
    """Outlives the channels of a link; forgets what is refused for its age anyway.

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

    def _prune(self) -> None:
        now = self._clock()
        if abs(now - self._pruned) < _PRUNE_S:
            return
        self._pruned = now
        oldest = now - MAX_SKEW_S
        self._settled = {d: at for d, at in self._settled.items() if at >= oldest}
        self._open = {t: m for t, m in self._open.items() if m.timestamp >= oldest}
