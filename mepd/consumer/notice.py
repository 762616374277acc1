"""Failure notices: telling the service that a user endpoint did not start.

The credentials come from a message, so they decide who speaks and where on the broker,
never which broker: a notice goes to the endpoint's own one or nowhere.
"""

from __future__ import annotations

import collections
import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from mepd.consumer.broker import BrokerAddress, parse_url
from mepd.consumer.names import is_short_string, is_uuid
from mepd.consumer.publisher import Publisher
from mepd.errors import WireError
from mepd.wire.message import StatusReport, pack_status

_log = logging.getLogger(__name__)

IN_FLIGHT_MAX = 8
QUEUED_MAX = 1000
PATIENCE_S = 10.0
TEXT_MAX = 4096
# Below PATIENCE_S, so that a broker in alarm or out of reach gives its slot back
_BLOCKED_S = 8.0
_BROKER_HEARTBEAT_S = 5
# What the service is told to wait for more from an endpoint that will not come
_REPORT_PERIOD_S = 3


@dataclass(frozen=True)
class Notice:
    """``own`` is where the endpoint's link goes, ``port`` its override of URLs' ports."""

    text: str
    own: BrokerAddress | None
    port: int | None
    amqp_creds: dict[str, Any] = field(repr=False)


@dataclass(frozen=True)
class Letter:
    """A notice ready to be published."""

    address: BrokerAddress
    exchange: str
    routing_key: str
    body: bytes


def _heartbeat_texts(amqp_creds: dict[str, Any]) -> tuple[str, str, str]:
    """Connection URL, exchange and routing key of the heartbeat queue. Raises WireError."""
    info = amqp_creds.get("heartbeat_queue_info")
    publish = info.get("queue_publish_kwargs") if type(info) is dict else None
    if type(info) is not dict or type(publish) is not dict:
        raise WireError("the credentials name no heartbeat queue")
    url = info.get("connection_url")
    exchange, key = publish.get("exchange"), publish.get("routing_key")
    if type(url) is not str or type(exchange) is not str or type(key) is not str:
        raise WireError("the credentials lack a text of the heartbeat queue")
    if not is_short_string(exchange) or not is_short_string(key):
        raise WireError("the credentials name an impossible exchange or routing key")
    return url, exchange, key


def write(notice: Notice) -> Letter:
    """Where a notice goes and what it says. Raises WireError when it may not go there."""
    if notice.own is None:
        raise WireError("the endpoint has no broker yet")
    url, exchange, key = _heartbeat_texts(notice.amqp_creds)
    uep_id = notice.amqp_creds.get("endpoint_id")
    if type(uep_id) is not str or not is_uuid(uep_id):
        raise WireError("the credentials name no endpoint")
    address = parse_url(url, notice.port)
    if address.place != notice.own.place or address.tls != notice.own.tls:
        raise WireError("the credentials are for another broker")
    state = {"error": notice.text[:TEXT_MAX], "heartbeat_period": _REPORT_PERIOD_S}
    return Letter(address, exchange, key, pack_status(StatusReport(uep_id, state)))


class _Sending:
    """One notice under way: ``done`` once, ``gone`` once when its connection is, and before
    ``sent`` if it has left for the broker."""

    def __init__(
        self,
        loop: Any,
        letter: Letter,
        done: Callable[[str], None],
        gone: Callable[[], None],
        sent: Callable[[], None],
    ) -> None:
        self._loop = loop
        self._sent = sent
        self._letter = letter
        self._done: Callable[[str], None] | None = done
        self._timer = loop.call_later(PATIENCE_S, self._timed_out)
        self._publisher = Publisher(
            loop,
            letter.address,
            self._publish,
            self._finish,
            gone,
            heartbeat_s=_BROKER_HEARTBEAT_S,
            blocked_s=_BLOCKED_S,
        )

    def _publish(self) -> None:
        letter = self._letter
        self._publisher.publish(letter.exchange, letter.routing_key, letter.body, self._confirmed)
        # pika writes in the next turn of the loop; two timers later that turn is over
        self._loop.call_later(0, lambda: self._loop.call_later(0, self._tell_sent))

    def _tell_sent(self) -> None:
        if self._done is not None:
            self._sent()

    def _confirmed(self, reason: str) -> None:
        self._finish(reason)
        self._publisher.close()

    def _timed_out(self) -> None:
        self._finish(f"no confirmation in {PATIENCE_S:.0f} s")
        self._publisher.close()

    def _finish(self, reason: str) -> None:
        done, self._done = self._done, None
        if done is not None:
            self._loop.remove_timeout(self._timer)
            done(reason)


class Notices:
    """At most IN_FLIGHT_MAX connections at a time; the rest waits in order."""

    def __init__(self, loop: Any) -> None:
        self._loop = loop
        self._queue: collections.deque[
            tuple[Letter, Callable[[str], None], Callable[[], None]]
        ] = collections.deque()
        self._in_flight = 0

    @property
    def idle(self) -> bool:
        return not self._queue and not self._in_flight

    def submit(
        self, notice: Notice, done: Callable[[str], None], sent: Callable[[], None] = lambda: None
    ) -> None:
        """Send a notice; ``done`` gets an empty text, or the reason why it was not sent.

        ``sent`` is called when it has left for the broker.
        """
        try:
            letter = write(notice)
        except WireError as e:
            done(str(e))
            return
        if len(self._queue) >= QUEUED_MAX:
            done("too many notices are waiting")
            return
        self._queue.append((letter, done, sent))
        self._pump()

    def _pump(self) -> None:
        while self._queue and self._in_flight < IN_FLIGHT_MAX:
            letter, done, sent = self._queue.popleft()
            self._in_flight += 1
            _Sending(self._loop, letter, done, self._landed, sent)

    def _landed(self) -> None:
        self._in_flight -= 1
        self._pump()
