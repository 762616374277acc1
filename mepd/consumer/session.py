"""One connection to a broker with one channel: opened, watched, and ended exactly once.

pika tells of an end in many ways: an error while opening, a closed connection, a closed
channel that leaves its connection open (RabbitMQ's consumer_timeout does that without
any exception). Here each of them is one call of ``on_end`` with a reason.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import pika
from pika.adapters.utils.selector_ioloop_adapter import SelectorIOServicesAdapter

from mepd.consumer.broker import BrokerAddress, describe, parameters
from mepd.posix.addresses import look_up


class _Services(SelectorIOServicesAdapter):  # type: ignore[misc]
    """Where the system has no thread to look a name up, or no descriptor for a socket, that is
    to be a name that cannot be found; pika would have it end the loop."""

    def getaddrinfo(
        self, host: Any, port: Any, on_done: Callable[[Any], None], *args: Any, **kwargs: Any
    ) -> Any:
        ask = functools.partial(super().getaddrinfo, host, port)
        return look_up(
            lambda done: ask(done, *args, **kwargs), self.add_callback_threadsafe, on_done
        )


class Session:
    """``on_channel`` gets the open channel; ``on_end`` gets the reason, at most once and
    never after :meth:`close`; ``on_gone`` tells that the connection holds no socket any more.
    """

    def __init__(
        self,
        loop: Any,
        address: BrokerAddress,
        on_channel: Callable[[Any], None],
        on_end: Callable[[str], None],
        on_gone: Callable[[], None] = lambda: None,
        heartbeat_s: int = 30,
        blocked_s: float | None = None,
    ) -> None:
        self._loop = loop
        self._on_channel = on_channel
        self._on_end = on_end
        self._on_gone = on_gone
        self._ended = False
        self._connection: Any = None
        try:
            settings = parameters(address, heartbeat_s, blocked_s)
            self._connection = pika.SelectConnection(
                settings,
                on_open_callback=self._opened,
                on_open_error_callback=self._gone,
                on_close_callback=self._gone,
                custom_ioloop=_Services(loop),
            )
        except (OSError, ValueError, TypeError, RuntimeError) as e:
            # Told from the loop: no callback before the constructor has returned
            loop.call_later(0, lambda error=e: self._gone(None, error))

    @property
    def usable(self) -> bool:
        """Whether no end has been told or asked for."""
        return not self._ended

    def _opened(self, connection: Any) -> None:
        self._connection = connection
        if self._ended:
            connection.close()
            return
        connection.channel(on_open_callback=self._channel_open)

    def _channel_open(self, channel: Any) -> None:
        if self._ended:
            return
        channel.add_on_close_callback(lambda _channel, error: self.fail(describe(error)))
        self._on_channel(channel)

    def _gone(self, _connection: Any, error: BaseException) -> None:
        self._tell(describe(error))
        self._on_gone()

    def _tell(self, reason: str) -> None:
        if not self._ended:
            self._ended = True
            self._on_end(reason)

    def fail(self, reason: str) -> None:
        """End the session because of ``reason``, which ``on_end`` gets."""
        self._tell(reason)
        self._hang_up()

    def close(self, on_gone: Callable[[], None] | None = None) -> None:
        """End the session on our own wish; what was sent before still goes out.

        ``on_gone``, in the place of the earlier one, is called in any case.
        """
        self._ended = True
        if on_gone is not None:
            self._on_gone = on_gone
            if self._connection is None or self._connection.is_closed:
                self._loop.call_later(0, on_gone)
        self._hang_up()

    def _hang_up(self) -> None:
        # A connection that is still being made is closed by _opened
        if self._connection is not None and self._connection.is_open:
            self._connection.close()
