"""A connection to the broker that comes back: its channels, its backoff."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from mepd.uep import backoff
from mepd.uep.amqp import (
    AMQPConnectionError,
    AMQPError,
    Channel,
    Connection,
    IOLoop,
    ProbableAccessDeniedError,
    ProbableAuthenticationError,
    URLParameters,
)

log = logging.getLogger(__name__)

CONNECT_TIMEOUT = 15.0
STEADY = 1.0
"""Seconds in which a broker that closes a channel for what is sent on it has done so."""


class Role(Protocol):
    """What uses one channel of a connection."""

    name: str

    @property
    def up(self) -> bool: ...

    def url(self) -> str: ...

    def opened(self, channel: Channel, is_up: Callable[[], None]) -> None: ...

    def closed(self, error: object) -> None: ...


def _innermost(error: object) -> object:
    """What pika has wrapped: an attempt has a workflow, that has errors of connectors."""
    nested: Any = getattr(error, "exceptions", None)
    if nested is None and type(error) is AMQPConnectionError:
        nested = getattr(error, "args", ())
    for inner in (getattr(error, "exception", None), *(nested or ())[-1:]):
        if isinstance(inner, BaseException):
            return _innermost(inner)
    return error


def refused(error: object) -> bool:
    """Whether the broker said that it does not want these credentials.

    pika takes any end during the login for a probable refusal, also that of the network.
    """
    inner = _innermost(error)
    probable = isinstance(inner, (ProbableAuthenticationError, ProbableAccessDeniedError))
    return probable and "StreamLostError" not in str(inner)


def cause(error: object) -> str:
    """A short text for the log and the user; never a URL."""
    inner = _innermost(error)
    text = getattr(inner, "strerror", None) or str(inner) or type(inner).__name__
    return text if isinstance(inner, (OSError, AMQPError)) else type(inner).__name__


def parameters(url: str) -> URLParameters:
    """What ``url`` says. Raises what pika does, and ValueError for socket options that the
    kernel would not take, which pika finds out when nobody can catch it."""
    params = URLParameters(url)
    options = params.tcp_options or {}
    if any(type(value) is not int for value in options.values()):
        raise ValueError("tcp_options")
    return params


class Link:
    """Keeps one connection, and a channel for each role, open until ``stop``.

    ``on_refused(text)`` is called when the broker refuses the credentials; ``part(roles)``
    before a new connection, with those roles whose URL is no longer that of the first: they
    need a link of their own.
    """

    def __init__(
        self,
        loop: IOLoop,
        roles: Sequence[Role],
        port: int | None,
        on_refused: Callable[[str], None],
        part: Callable[[Sequence[Role]], None] = lambda _roles: None,
    ) -> None:
        self._part = part
        self._loop = loop
        self._roles = tuple(roles)
        self._port = port
        self._on_refused = on_refused
        self._connection: Connection | None = None
        self._channels: dict[str, Channel] = {}
        self._failures = 0
        self._channel_failures: dict[str, int] = {}
        self._timer: object | None = None
        self._stopped = False
        self._on_stopped: Callable[[], None] | None = None

    def start(self) -> None:
        self._timer = None
        if self._stopped:
            return
        url = self._roles[0].url()
        others = [r for r in self._roles if r.url() != url]
        if others:
            self._roles = tuple(r for r in self._roles if r not in others)
            self._part(others)
        try:
            params = parameters(url)
        except Exception as e:
            self._failed(f"bad connection_url ({type(e).__name__})")
            return
        if self._port is not None:
            params.port = self._port
        params.socket_timeout = CONNECT_TIMEOUT
        params.stack_timeout = CONNECT_TIMEOUT
        self._connection = Connection(
            params,
            on_open_callback=self._on_open,
            on_open_error_callback=self._on_open_error,
            on_close_callback=self._on_close,
            custom_ioloop=self._loop,
        )

    def hurry(self) -> None:
        """Fresh credentials: a connection that is waiting to try again tries now."""
        if self._timer is not None:
            self._loop.remove_timeout(self._timer)
            self._failures = 0
            self.start()

    def _failed(self, text: str) -> None:
        self._connection = None
        if self._stopped:
            self._finish()
            return
        self._failures += 1
        wait = backoff.jittered(self._failures)
        log.warning("broker: %s; next attempt in %.1f s", text, wait)
        self._timer = self._loop.call_later(wait, self.start)

    def _on_open_error(self, connection: Connection, error: Any) -> None:
        if connection is not self._connection:
            return
        text = f"cannot connect: {cause(error)}"
        self._failed(text)
        if refused(error):
            self._on_refused(text)

    def _on_open(self, connection: Connection) -> None:
        if connection is self._connection:
            for role in self._roles:
                self._open_channel(role)

    def _on_close(self, connection: Connection, error: Any) -> None:
        if connection is not self._connection:
            return
        self._drop_all(error)
        self._failed(f"connection closed: {cause(error)}")

    def _drop_all(self, error: object) -> None:
        channels, self._channels = self._channels, {}
        for role in self._roles:
            if role.name in channels:
                role.closed(error)

    def _open_channel(self, role: Role) -> None:
        connection = self._connection
        if connection is None or not connection.is_open or role.name in self._channels:
            return
        if self._stopped:
            return

        def opened(channel: Channel) -> None:
            channel.add_on_close_callback(lambda ch, e: self._on_channel_close(role, ch, e))
            self._channels[role.name] = channel
            role.opened(channel, lambda: self._on_role_up(role))

        connection.channel(on_open_callback=opened)

    def _on_role_up(self, role: Role) -> None:
        self._failures = 0
        channel = self._channels.get(role.name)
        if role.name in self._channel_failures:
            self._loop.call_later(STEADY, lambda: self._forgive(role, channel))

    def _forgive(self, role: Role, channel: Channel | None) -> None:
        if channel is not None and self._channels.get(role.name) is channel:
            self._channel_failures.pop(role.name, None)

    def _on_channel_close(self, role: Role, channel: Channel, error: Any) -> None:
        if self._channels.get(role.name) is not channel:
            return
        del self._channels[role.name]
        role.closed(error)
        connection = self._connection
        if self._stopped or connection is None or not connection.is_open:
            return
        failures = self._channel_failures.get(role.name, 0) + 1
        self._channel_failures[role.name] = failures
        wait = backoff.jittered(failures)
        log.warning("%s: channel closed: %s; next in %.1f s", role.name, cause(error), wait)
        self._loop.call_later(wait, lambda: self._open_channel(role))

    def check(self) -> None:
        """Notice channels that closed without a word, as RabbitMQ's consumer_timeout may."""
        for role in self._roles:
            channel = self._channels.get(role.name)
            if channel is not None and channel.is_closed:
                self._on_channel_close(role, channel, OSError("it was closed silently"))

    def stop(self, on_stopped: Callable[[], None]) -> None:
        """Close in good order; ``on_stopped`` follows when nothing is left open."""
        self._stopped = True
        self._on_stopped = on_stopped
        if self._timer is not None:
            self._loop.remove_timeout(self._timer)
            self._timer = None
        if self._connection is not None and self._connection.is_open:
            self._connection.close()
        elif self._connection is None:
            self._finish()

    def _finish(self) -> None:
        callback, self._on_stopped = self._on_stopped, None
        if callback is not None:
            self._loop.add_callback_threadsafe(callback)
