"""One endpoint's link to the service: register, consume, settle, come back.

The life of a link is a round: register (which refreshes the broker's credentials),
connect, consume; when anything breaks, wait and begin again. Nothing that the service or
the broker does ends the worker.
"""

from __future__ import annotations

import contextlib
import logging
import random
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any, Protocol

from mepd.consumer import tokens
from mepd.consumer.backoff import MAX_S, Backoff
from mepd.consumer.broker import BrokerAddress, parse_url
from mepd.consumer.deliveries import Deliveries, Outbox
from mepd.consumer.heartbeat import Heartbeat
from mepd.consumer.notice import Notice
from mepd.consumer.refresh import Answer, Refresher, ask_service
from mepd.consumer.register import Registration
from mepd.consumer.replays import Replays
from mepd.consumer.session import Session
from mepd.errors import ServiceError, WireError
from mepd.wire.worker import (
    EndpointOnline,
    EndpointRegistered,
    OwnIdentities,
    RegistrationFailed,
    ServeEndpoint,
)

_log = logging.getLogger(__name__)
PREFETCH = 64
CONSUMER_TAG = "mepd"


class Carrier(Protocol):
    """What sends failure notices."""

    def submit(
        self, notice: Notice, done: Callable[[str], None], sent: Callable[[], None]
    ) -> None: ...


class EndpointLink:
    """``generations`` yields the names of channels, unique in all lives of the worker."""

    def __init__(
        self,
        serve: ServeEndpoint,
        loop: Any,
        outbox: Outbox,
        notices: Carrier,
        generations: Iterator[str],
    ) -> None:
        self.serve = serve
        self._loop = loop
        self._outbox = outbox
        self._notices = notices
        self._generations = generations
        self._endpoint_id = serve.endpoint_id
        self._registration: Registration | None = None
        self._own: BrokerAddress | None = None
        self._session: Session | None = None
        self._deliveries: Deliveries | None = None
        self._heartbeat: Heartbeat | None = None
        self._backoff = Backoff()
        self._replays = Replays()
        self._timer: Any = None
        self._online_since = 0.0
        self._told: tuple[bool, str] | None = None
        self._refresher = Refresher(
            loop, self._ask_service, lambda: self.serve, self._stands, self._refreshed
        )
        self._draining = False
        self._closed = False
        self._asking = False
        self._waiting: list[Callable[[], None]] = []
        self._register()

    # --- registering ------------------------------------------------------------------
    def _register(self) -> None:
        self._timer = None
        try:
            self._ask_service(self._answered)
            self._asking = True
        except RuntimeError as e:  # out of processes
            self._retry(f"cannot register: {e}")

    def _ask_service(self, then: Callable[[ServeEndpoint, Answer], None]) -> None:
        ask_service(self._loop, self.serve, self._endpoint_id, then)

    def _answered(self, serve: ServeEndpoint, answer: Answer) -> None:
        self._asking = False
        if self._closed or self._draining:
            self._learn_broker(answer)
            return
        if isinstance(answer, ServiceError):
            self._not_registered(answer)
            return
        if self._registration is None or answer.endpoint_id != self._endpoint_id:
            self._outbox.send(EndpointRegistered(self.serve.name, answer.endpoint_id))
        self._tell_identities(answer)
        self._endpoint_id = answer.endpoint_id
        self._registration = answer
        self._refresher.knows(serve)
        self._connect(answer)

    def _learn_broker(self, answer: Answer) -> None:
        """Nothing is consumed any more, but failures of what runs are still to be told."""
        if isinstance(answer, Registration):
            with contextlib.suppress(WireError):
                self._own = parse_url(answer.command_url, self.serve.amqp_port)
        waiting, self._waiting = self._waiting, []
        for submit in waiting:
            submit()

    def _tell_identities(self, answer: Registration) -> None:
        if self.serve.want_identities:
            self._outbox.send(OwnIdentities(self.serve.name, list(answer.identities)))

    def _not_registered(self, error: ServiceError) -> None:
        if error.fatal:
            _log.error("endpoint %s is refused by the service: %s", self.serve.name, error)
        self._outbox.send(RegistrationFailed(self.serve.name, str(error), error.fatal))
        if self._registration is not None and not error.fatal:
            self._connect(self._registration)  # the service is down; the broker may not be
        else:
            self._retry(str(error), patient=error.fatal)

    # --- what changed at the endpoint ---------------------------------------------------
    def update(self, serve: ServeEndpoint) -> bool:
        """Take over what only the service wants to know, without leaving the broker.

        False if the link cannot: it must be made anew.
        """
        same = replace(
            self.serve, endpoint_id=serve.endpoint_id, registration=serve.registration,
            credential=serve.credential,
        )  # fmt: skip
        ids = (self.serve.endpoint_id, self._endpoint_id)
        if self._draining or same != serve or serve.endpoint_id not in ids:
            return False
        self.serve = serve
        self._refresher.look()
        return True

    def _stands(self) -> bool:
        return not self._closed and self._session is not None and bool(self._online_since)

    def _refreshed(self, answer: Registration) -> None:
        """The service knows the endpoint as it is now, and may have moved its queue."""
        assert self._session is not None
        self._tell_identities(answer)
        old, self._registration = self._registration, answer
        try:
            own = parse_url(answer.command_url, self.serve.amqp_port)
            address = parse_url(answer.heartbeat_url, self.serve.amqp_port)
        except WireError as e:
            self._session.fail(f"the service's answer: {e}")
            return
        if old is None or _moved(old, answer) or self._own is None or own.place != self._own.place:
            self._session.fail("the service moved the endpoint's queue")
            return
        self._own = own
        if self._heartbeat is not None:
            self._heartbeat.update(address, answer)
        _log.info("endpoint %s is registered as it is now", self.serve.name)

    # --- consuming --------------------------------------------------------------------
    def _connect(self, registration: Registration) -> None:
        try:
            self._own = parse_url(registration.command_url, self.serve.amqp_port)
        except WireError as e:
            self._retry(f"the service's command queue: {e}")
            return
        self._session = Session(self._loop, self._own, self._consume, self._broken)

    def _consume(self, channel: Any) -> None:
        assert self._registration is not None
        queue = self._registration.command_queue
        deliveries = Deliveries(
            endpoint=self.serve.name,
            endpoint_id=self._registration.endpoint_id,
            generation=next(self._generations),
            channel=channel,
            outbox=self._outbox,
            replays=self._replays,
            send_notice=self.send_notice,
        )
        self._deliveries = deliveries
        channel.add_on_cancel_callback(lambda _frame: self._cancelled())
        channel.basic_qos(
            prefetch_count=PREFETCH, callback=lambda _frame: self._begin(channel, queue, deliveries)
        )

    def _begin(self, channel: Any, queue: str, deliveries: Deliveries) -> None:
        if self._deliveries is deliveries and channel.is_open and not self._draining:
            channel.basic_consume(
                queue,
                on_message_callback=deliveries.receive,
                callback=lambda _frame: self._online(deliveries),
                consumer_tag=CONSUMER_TAG,
            )

    def _cancelled(self) -> None:
        if self._session is not None:
            self._session.fail("the broker cancelled the consumer: its queue is gone")

    def _online(self, deliveries: Deliveries) -> None:
        if self._deliveries is not deliveries or self._draining:
            return  # answered too late: the link is closed or has broken
        assert self._registration is not None
        self._online_since = time.monotonic()
        _log.info("endpoint %s listens for start requests", self.serve.name)
        self._tell(True, "")
        self._loop.call_later(0, self._refresher.look)
        try:
            address = parse_url(self._registration.heartbeat_url, self.serve.amqp_port)
        except WireError as e:
            _log.error("endpoint %s has no heartbeats: %s", self.serve.name, e)
            return
        self._heartbeat = Heartbeat(
            self._loop, address, self._registration, self.serve.heartbeat_period,
            self._refresher.renew,
        )  # fmt: skip

    def _broken(self, reason: str) -> None:
        """The channel or its connection ended; held deliveries come again on the next one."""
        self._deliveries = None
        self._session = None
        self._silence()
        if not self._closed and not self._draining:
            self._retry(reason)

    def _silence(self) -> None:
        if self._heartbeat is not None:
            self._heartbeat.close()
            self._heartbeat = None

    def _retry(self, reason: str, patient: bool = False) -> None:
        lasted = time.monotonic() - self._online_since if self._online_since else 0.0
        self._online_since = 0.0
        self._backoff = self._backoff.after_failure(lasted)
        pause = MAX_S if patient else self._backoff.delay(random.random())
        _log.warning("endpoint %s: %s; trying again in %.1f s", self.serve.name, reason, pause)
        self._tell(False, reason)
        self._timer = self._loop.call_later(pause, self._register)

    def _tell(self, online: bool, reason: str) -> None:
        if self._told != (online, reason):
            self._told = (online, reason)
            self._outbox.send(EndpointOnline(self.serve.name, online, reason))

    # --- what the master asks ---------------------------------------------------------
    def settle(self, token: tokens.Token, told: bool) -> None:
        """Ack a delivery of the present channel; an older one's token is dead.

        What it stood for comes again. It is known then, or if nobody could be ``told`` what
        became of it, begun anew.
        """
        if told:
            self._replays.settled(token)
        else:
            self._replays.forget(token)
        if self._deliveries is None or token.generation != self._deliveries.generation:
            _log.info("endpoint %s: a settled request's channel is gone", self.serve.name)
            return
        self._deliveries.settle(token.delivery_tag)

    def send_notice(
        self,
        text: str,
        amqp_creds: dict[str, Any],
        done: Callable[[str], None],
        sent: Callable[[], None] = lambda: None,
    ) -> None:
        """Tell the service through this link's own broker that a UEP failed.

        ``sent`` is called when that is on its way, and ``done`` when it is known how it ended.
        """

        def submit() -> None:
            notice = Notice(text, self._own, self.serve.amqp_port, amqp_creds)
            self._notices.submit(notice, done, sent)

        if self._own is None and self._draining and self._asking:
            self._waiting.append(submit)
        else:
            submit()

    def drain(self) -> None:
        """Consume no more and say goodbye; what is held can still be settled."""
        self._draining = True
        if self._deliveries is None or not self._deliveries.cancel(CONSUMER_TAG):
            self._leave()
        self._tell(False, "draining")
        if self._heartbeat is not None:
            self._heartbeat.say_goodbye(lambda: None)
            self._heartbeat = None

    def _leave(self) -> None:
        """No broker holds anything for this link: there is nothing to come back to."""
        self._cancel_timers()
        if self._session is not None:
            self._session.close()
            self._session = None

    def _cancel_timers(self) -> None:
        if self._timer is not None:
            self._loop.remove_timeout(self._timer)
            self._timer = None
        self._refresher.cancel()

    def close(self, done: Callable[[], None] = lambda: None) -> None:
        """Stop: what is unacked goes back to the broker; the last heartbeat says farewell.

        ``done`` is called when acks and farewell have been sent.
        """
        self._closed = True
        self._cancel_timers()
        self._deliveries = None
        session, self._session = self._session, None
        heartbeat, self._heartbeat = self._heartbeat, None
        closing = sum(part is not None for part in (session, heartbeat))

        def one_closed() -> None:
            nonlocal closing
            closing -= 1
            if not closing:
                done()

        if session is not None:
            session.close(one_closed)
        if heartbeat is not None:
            heartbeat.say_goodbye(one_closed)
        if session is None and heartbeat is None:
            done()


def _moved(old: Registration, new: Registration) -> bool:
    """Whether queue or exchange are others; fresh credentials alone are no reason to leave."""
    return (old.command_queue, old.heartbeat_exchange, old.heartbeat_routing_key) != (
        new.command_queue, new.heartbeat_exchange, new.heartbeat_routing_key,
    )  # fmt: skip
