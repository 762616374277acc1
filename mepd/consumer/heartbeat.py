"""The heartbeats of one endpoint: status reports for as long as it consumes its queue."""

from __future__ import annotations

import logging
import random
from collections.abc import Callable
from typing import Any

from mepd.consumer.backoff import Backoff
from mepd.consumer.broker import BrokerAddress
from mepd.consumer.publisher import Publisher
from mepd.consumer.register import Registration
from mepd.wire.message import StatusReport, pack_status

_log = logging.getLogger(__name__)
LAST_WORD_S = 0.7


class Heartbeat:
    """Publishes at once and then every ``period`` seconds; mends its own connection.

    ``renew`` is called when that fails more than once in a row: the service may have to give
    other credentials, or make the exchange anew.
    A heartbeat that is not yet confirmed is not followed by another, so that nothing
    piles up before a broker in alarm.
    """

    def __init__(
        self,
        loop: Any,
        address: BrokerAddress,
        where: Registration,
        period: float,
        renew: Callable[[], None],
    ) -> None:
        self._loop = loop
        self._renew = renew
        self._address = address
        self._where = where
        self._period = period
        self._backoff = Backoff()
        self._timer: Any = None
        self._closed = False
        self._away = False
        self._last_said: Callable[[str], None] = lambda _reason: None
        self._publisher: Publisher
        self._connect()

    def _connect(self) -> None:
        self._timer = None
        self._away = False
        self._publisher = Publisher(self._loop, self._address, self._beat, self._lost)

    def _beat(self) -> None:
        if self._closed:  # it is to say goodbye, and had no connection yet
            self._publish(0, self._last_said)
            return
        if self._publisher.idle:
            self._publish(self._period, self._confirmed)
        self._timer = self._loop.call_later(self._period, self._beat)

    def _publish(self, period: float, done: Callable[[str], None]) -> None:
        whole = int(period) if period == int(period) else period
        report = StatusReport(self._where.endpoint_id, {"heartbeat_period": whole})
        where = self._where
        self._publisher.publish(
            where.heartbeat_exchange, where.heartbeat_routing_key, pack_status(report), done
        )

    def _confirmed(self, reason: str) -> None:
        if reason:
            _log.warning("heartbeat of endpoint %s: %s", self._where.endpoint_id, reason)
        else:
            self._backoff = Backoff()

    def _lost(self, reason: str) -> None:
        if self._closed:
            self._last_said(reason)
            return
        self._cancel_timer()
        self._away = True
        self._backoff = self._backoff.after_failure(0.0)
        pause = self._backoff.delay(random.random())
        _log.warning(
            "heartbeat connection of endpoint %s: %s; trying again in %.1f s",
            self._where.endpoint_id,
            reason,
            pause,
        )
        self._timer = self._loop.call_later(pause, self._connect)
        if self._backoff.attempt > 1:
            self._renew()

    def update(self, address: BrokerAddress, where: Registration) -> None:
        """Fresh credentials, for when the connection has to be made again."""
        self._address, self._where = address, where

    def _cancel_timer(self) -> None:
        if self._timer is not None:
            self._loop.remove_timeout(self._timer)
            self._timer = None

    def close(self) -> None:
        """Fall silent: the endpoint has lost its queue but is not going away."""
        self._closed = True
        self._cancel_timer()
        self._publisher.close()

    def say_goodbye(self, done: Callable[[], None]) -> None:
        """Send the last heartbeat, period 0, then close; ``done`` is called in any case,
        at the latest after LAST_WORD_S seconds: for as long a connection that is being made,
        or a heartbeat that is not confirmed, is waited for."""
        self._closed = True
        self._cancel_timer()
        pending = [done]

        def finish(_reason: str = "") -> None:
            self._cancel_timer()
            self._publisher.close()
            if pending:
                pending.pop()()

        self._last_said = finish
        if self._away:
            finish()
            return
        self._timer = self._loop.call_later(LAST_WORD_S, finish)
        if self._publisher.ready:
            self._publish(0, finish)
