"""Publishing with confirms: a message is done when the broker has taken it to its queue."""

from __future__ import annotations

import itertools
import logging
import re
import time
from collections.abc import Callable
from typing import Any, NamedTuple

from mepd.uep.amqp import AMQPError, BasicProperties, Channel

log = logging.getLogger(__name__)

PERSISTENT = 2
_TOO_LARGE = re.compile(r"message size \d+ is larger than (?:configured )?max size (\d+)")


def size_limit(error: object) -> int | None:
    """The broker's limit in bytes, if it closed the channel for a message beyond it."""
    found = _TOO_LARGE.search(str(error))
    return int(found[1]) if found else None


class _Sent(NamedTuple):
    key: str
    body: bytes
    at: float


class Publisher:
    """One channel's worth of publishing; messages go by a key of the caller's.

    ``done(keys)`` tells what the broker has confirmed, ``failed(key, body)`` what it has
    returned, refused, or not confirmed before the channel closed. ``too_large(key, body,
    limit)`` is called instead for what is beyond the broker's limit and can never be taken.
    """

    def __init__(
        self,
        name: str,
        info: Callable[[], dict[str, Any]],
        done: Callable[[list[str]], None],
        failed: Callable[[str, bytes], None],
        on_up: Callable[[], None],
        too_large: Callable[[str, bytes, int], None] | None = None,
    ) -> None:
        self._too_large = too_large
        self.name = name
        self._info = info
        self._done = done
        self._failed = failed
        self._on_up = on_up
        self._channel: Channel | None = None
        self._up = False
        self._next_tag = 1
        self._unconfirmed: dict[int, _Sent] = {}
        self._returned: set[str] = set()
        self._target: tuple[str, str, dict[str, Any]] = ("", "", {})

    @property
    def up(self) -> bool:
        return self._up and self._channel is not None and bool(self._channel.is_open)

    @property
    def unconfirmed(self) -> int:
        return len(self._unconfirmed)

    def url(self) -> str:
        return str(self._info()["connection_url"])

    def opened(self, channel: Channel, is_up: Callable[[], None]) -> None:
        kwargs = self._info()["queue_publish_kwargs"]
        properties = dict(kwargs.get("properties") or {})
        properties.setdefault("delivery_mode", PERSISTENT)
        self._target = (
            str(kwargs.get("exchange") or ""),
            str(kwargs.get("routing_key") or ""),
            properties,
        )
        self._channel = channel
        self._next_tag = 1
        channel.add_on_return_callback(self._on_return)

        def confirmed(_frame: Any) -> None:
            self._up = True
            is_up()
            self._on_up()

        channel.confirm_delivery(self._on_confirm, callback=confirmed)

    def closed(self, error: object) -> None:
        self._channel = None
        self._up = False
        lost, self._unconfirmed = self._unconfirmed, {}
        self._returned.clear()
        limit = size_limit(error)
        for sent in lost.values():
            if limit is not None and len(sent.body) > limit and self._too_large is not None:
                self._too_large(sent.key, sent.body, limit)
            else:
                self._failed(sent.key, sent.body)

    def publish(self, key: str, body: bytes) -> bool:
        """Send a message; False if there is no channel to send it on."""
        if not self.up or self._channel is None:
            return False
        exchange, routing_key, properties = self._target
        try:
            self._channel.basic_publish(
                exchange,
                routing_key,
                body,
                BasicProperties(message_id=key, **properties),
                mandatory=True,
            )
        except AMQPError:
            return False
        self._unconfirmed[self._next_tag] = _Sent(key, body, time.monotonic())
        self._next_tag += 1
        return True

    def _on_return(self, _channel: Any, _method: Any, properties: Any, _body: bytes) -> None:
        """The broker could not route a message; its confirm follows."""
        self._returned.add(str(properties.message_id))

    def overdue(self, age: float) -> list[tuple[str, bytes]]:
        """What the broker has had for ``age`` seconds, and has not confirmed."""
        before = time.monotonic() - age
        late = itertools.takewhile(lambda s: s.at <= before, self._unconfirmed.values())
        return [(sent.key, sent.body) for sent in late]

    def _settled(self, tag: int, multiple: bool) -> list[_Sent]:
        if not multiple:
            found = self._unconfirmed.pop(tag, None)
            return [] if found is None else [found]
        tags = [t for t in self._unconfirmed if t <= tag]
        return [self._unconfirmed.pop(t) for t in tags]

    def _on_confirm(self, frame: Any) -> None:
        taken = frame.method.NAME == "Basic.Ack"
        done = []
        for sent in self._settled(frame.method.delivery_tag, frame.method.multiple):
            if taken and sent.key not in self._returned:
                done.append(sent.key)
                continue
            self._returned.discard(sent.key)
            log.warning("%s: the broker did not take a message", self.name)
            self._failed(sent.key, sent.body)
        if done:
            self._done(done)
