"""Publishing status reports with the broker's confirmation."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pika

from mepd.consumer.broker import BrokerAddress
from mepd.consumer.session import Session

Done = Callable[[str], None]
"""Gets an empty text when the broker has the message in a queue, else the reason."""


class Publisher:
    """A session of its own, in confirm mode: a broker in alarm stops reading from
    connections that publish, and acks must still go through.

    ``on_ready`` may be called once, then ``on_end`` once (not after :meth:`close`).
    """

    def __init__(
        self,
        loop: Any,
        address: BrokerAddress,
        on_ready: Callable[[], None],
        on_end: Callable[[str], None],
        on_gone: Callable[[], None] = lambda: None,
        heartbeat_s: int = 30,
        blocked_s: float | None = None,
    ) -> None:
        self._on_ready = on_ready
        self._on_end = on_end
        self._channel: Any = None
        self._published = 0
        self._waiting: dict[int, Done] = {}
        self._returned = ""
        self._session = Session(
            loop, address, self._open, self._ended, on_gone, heartbeat_s, blocked_s
        )

    def _open(self, channel: Any) -> None:
        channel.add_on_return_callback(self._on_return)
        channel.confirm_delivery(self._on_confirm, callback=lambda _frame: self._ready(channel))

    def _ready(self, channel: Any) -> None:
        if self._session.usable:
            self._channel = channel
            self._on_ready()

    def _on_return(self, _channel: Any, method: Any, _properties: Any, _body: bytes) -> None:
        # The broker sends it before the confirmation of the same message
        self._returned = f"no queue takes it ({method.reply_text})"

    def _on_confirm(self, frame: Any) -> None:
        tag, everything_up_to = frame.method.delivery_tag, frame.method.multiple
        nack = isinstance(frame.method, pika.spec.Basic.Nack)
        reason = "the broker did not take it" if nack else self._returned
        self._returned = ""
        tags = [t for t in self._waiting if t == tag or (everything_up_to and t < tag)]
        for one in sorted(tags):
            self._waiting.pop(one)(reason)

    def _ended(self, reason: str) -> None:
        self._channel = None
        waiting, self._waiting = self._waiting, {}
        for done in waiting.values():
            done(reason)
        self._on_end(reason)

    @property
    def ready(self) -> bool:
        """Whether it can publish."""
        return self._channel is not None and self._session.usable

    @property
    def idle(self) -> bool:
        """Whether it is ready and every message so far is confirmed."""
        return self.ready and not self._waiting

    def publish(self, exchange: str, routing_key: str, body: bytes, done: Done) -> None:
        """Send one persistent message; only after ``on_ready`` and before the end."""
        self._published += 1
        self._waiting[self._published] = done
        properties = pika.BasicProperties(
            delivery_mode=pika.DeliveryMode.Persistent.value, content_type="application/json"
        )
        self._channel.basic_publish(exchange, routing_key, body, properties, mandatory=True)

    def close(self) -> None:
        """Close without telling; unconfirmed messages are not told of either."""
        self._waiting.clear()
        self._channel = None
        self._session.close()
