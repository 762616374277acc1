"""Consuming the task queue: deliveries in, late acks out."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from mepd.uep.amqp import AMQPError, Channel

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Token:
    """A delivery on one life of the channel; worthless on the next."""

    generation: int
    tag: int


Deliver = Callable[[Token, dict[str, Any], bytes], None]


def ack_calls(unacked: dict[int, None], tags: list[int]) -> list[tuple[int, bool]]:
    """The fewest acks, as (tag, multiple), for ``tags``, which leave ``unacked``.

    ``unacked`` holds the tags of all unacknowledged deliveries, in order.
    """
    settled = set(tags)
    oldest = list(itertools.takewhile(settled.__contains__, unacked))
    oldest_set = set(oldest)
    rest = [t for t in tags if t in unacked and t not in oldest_set]
    for tag in (*oldest, *rest):
        del unacked[tag]
    calls = [(oldest[-1], len(oldest) > 1)] if oldest else []
    return calls + [(tag, False) for tag in rest]


class TaskFeed:
    """One channel that consumes the task queue, alone, with at most ``prefetch`` unacked."""

    def __init__(
        self,
        info: Callable[[], dict[str, Any]],
        prefetch: int,
        deliver: Deliver,
        on_up: Callable[[], None],
    ) -> None:
        self.name = "tasks"
        self._info = info
        self._prefetch = prefetch
        self._deliver = deliver
        self._on_up = on_up
        self._channel: Channel | None = None
        self._consumer = ""
        self._registered = False
        self._stopped = False
        self._generation = 0
        self._unacked: dict[int, None] = {}

    @property
    def up(self) -> bool:
        return self._registered and self._channel is not None and bool(self._channel.is_open)

    def url(self) -> str:
        return str(self._info()["connection_url"])

    def opened(self, channel: Channel, is_up: Callable[[], None]) -> None:
        self._channel = channel
        self._generation += 1
        generation = self._generation

        def message(_channel: Any, method: Any, properties: Any, body: bytes) -> None:
            if generation == self._generation and self._consumer:
                token = Token(generation, method.delivery_tag)
                self._unacked[token.tag] = None
                self._deliver(token, properties.headers or {}, body)

        def consuming(_frame: Any) -> None:
            self._registered = True
            is_up()
            self._on_up()

        if self._stopped:  # a task that came on this channel would begin, and not end
            is_up()
            return
        channel.add_on_cancel_callback(self._on_cancel)
        channel.basic_qos(prefetch_count=self._prefetch)
        self._consumer = channel.basic_consume(
            str(self._info()["queue"]), message, exclusive=True, callback=consuming
        )

    def closed(self, _error: object) -> None:
        self._channel = None
        self._consumer = ""
        self._registered = False
        self._unacked.clear()

    def _on_cancel(self, _frame: Any) -> None:
        """The broker ended the consumer: the queue is gone. A new channel tries again."""
        log.warning("tasks: the broker cancelled the consumer")
        self._consumer = ""
        if self._channel is not None and self._channel.is_open:
            self._channel.close()

    def ack(self, tokens: list[Token]) -> None:
        """Acknowledge deliveries; those of an earlier channel are the broker's again."""
        if self._channel is None or not self._channel.is_open:
            return
        tags = [t.tag for t in tokens if t.generation == self._generation]
        try:
            for tag, multiple in ack_calls(self._unacked, tags):
                self._channel.basic_ack(tag, multiple)
        except AMQPError as e:
            log.warning("tasks: cannot acknowledge: %s", type(e).__name__)

    def stop(self) -> None:
        """Take no further task; what is unacked goes back when the channel closes."""
        self._stopped = True
        if self._channel is not None and self._channel.is_open and self._consumer:
            self._channel.basic_cancel(self._consumer)
        self._consumer = ""
