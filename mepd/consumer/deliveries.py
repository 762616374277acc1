"""The deliveries of one channel: checked, handed to the master, acked when it says so."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Any, Protocol

from mepd.consumer.replays import Fingerprint, Replays, fingerprint
from mepd.consumer.tokens import Token
from mepd.errors import RequestError, WireError
from mepd.model import StartRequest
from mepd.wire import start_request
from mepd.wire.worker import RequestRefused, StartRequested

_log = logging.getLogger(__name__)


class Outbox(Protocol):
    """The way to the master."""

    def send(self, message: Any) -> None: ...

    def send_if_idle(self, message: Any) -> None: ...


class Deliveries:
    """A delivery is acked exactly once: when the master settles it, or, for a message that
    is refused here, when its notice is sent or cannot be.

    A request that was held unacked for longer than the allowed clock skew and then comes
    again (its channel broke, or this worker died) is refused like any other old one. It is
    not lost by that: its sender is told, and may ask again. What comes again in time is
    passed on; the master knows what it has already begun by the name. What comes again
    although it was settled is acked, and nothing else, at any age: it may run.
    """

    def __init__(
        self,
        endpoint: str,
        endpoint_id: str,
        generation: str,
        channel: Any,
        outbox: Outbox,
        replays: Replays,
        send_notice: Callable[[str, dict[str, Any], Callable[[str], None]], None],
    ) -> None:
        self.generation = generation
        self._endpoint = endpoint
        self._endpoint_id = endpoint_id
        self._channel = channel
        self._outbox = outbox
        self._replays = replays
        self._send_notice = send_notice
        self._unsettled: set[int] = set()

    def receive(self, _channel: Any, method: Any, properties: Any, body: bytes) -> None:
        """pika's on_message_callback."""
        tag = method.delivery_tag
        self._unsettled.add(tag)
        try:
            message = fingerprint(properties, body)
            if self._replays.is_replay(message, self.generation):
                self._ignore(tag, self._check(properties, body, properties.timestamp))
            else:
                self._pass_on(tag, self._check(properties, body, time.time()), message)
        except RequestError as e:
            self._refuse(tag, str(e), e.amqp_creds)
        except Exception as e:
            # A fault of ours: the same message would come again and hit it for ever
            _log.exception("endpoint %s: a start request met a fault", self._endpoint)
            self._refuse(tag, f"internal fault ({type(e).__name__})", None)

    def _check(self, properties: Any, body: bytes, now: float) -> StartRequest:
        return start_request.decode(
            body, properties.content_type, properties.timestamp, now, self._endpoint_id
        )

    def _ignore(self, tag: int, request: StartRequest) -> None:
        _log.warning(
            "endpoint %s: the start request for %s came again as it was; ignored",
            self._endpoint, request.name,
        )  # fmt: skip
        self.settle(tag)

    def _pass_on(self, tag: int, request: StartRequest, message: Fingerprint) -> None:
        token = Token(self._endpoint, self.generation, tag)
        try:
            self._outbox.send(
                StartRequested(str(token), self._endpoint, start_request.to_json(request))
            )
        except WireError as e:
            raise RequestError(str(e), request.amqp_creds) from None
        self._replays.handed_over(token, message)

    def _refuse(self, tag: int, reason: str, creds: dict[str, Any] | None) -> None:
        _log.warning("endpoint %s: start request refused: %s", self._endpoint, reason)
        self._outbox.send_if_idle(RequestRefused(self._endpoint, reason))
        if creds is None:
            self.settle(tag)
            return

        def told(failure: str) -> None:
            if failure:
                _log.warning("endpoint %s: notice not sent: %s", self._endpoint, failure)
            self.settle(tag)

        self._send_notice(reason, creds, told)

    def settle(self, tag: int) -> None:
        """Ack one delivery, once; nothing when the channel is no longer open.

        Acking an unknown tag would make the broker close the channel.
        """
        if tag in self._unsettled and self._channel.is_open:
            self._unsettled.discard(tag)
            self._channel.basic_ack(tag)

    def cancel(self, consumer_tag: str) -> bool:
        """Receive no more; False if the channel is not open."""
        if not self._channel.is_open:
            return False
        self._channel.basic_cancel(consumer_tag)
        return True
