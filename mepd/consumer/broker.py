"""Broker addresses from connection URLs, and why a connection failed, in plain words."""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote, urlsplit

import pika
from pika import data, exceptions

from mepd.consumer.names import is_short_string
from mepd.errors import WireError
from mepd.wire import headertables

headertables.harden(data)
CONNECT_TIMEOUT_S = 10.0


@dataclass(frozen=True)
class BrokerAddress:
    """What a connection needs; the password never appears in a repr."""

    tls: bool
    host: str
    port: int
    vhost: str
    user: str
    password: str = field(repr=False)

    @property
    def place(self) -> tuple[str, int]:
        """The host and port that the connection would go to."""
        return self.host, self.port


def parse_url(url: str, port: int | None = None) -> BrokerAddress:
    """The address that an ``amqp://`` or ``amqps://`` URL spells; ``port`` overrides its own.

    Query parameters are ignored: the URL of a message must not choose files or timeouts
    of this process. Raises WireError with a text that quotes nothing of the URL.
    """
    try:
        url.encode("utf-8")
        parts = urlsplit(url)
        given_port, host = parts.port, parts.hostname
    except ValueError:
        raise WireError("connection_url is no URL") from None
    if parts.scheme not in ("amqp", "amqps"):
        raise WireError("connection_url is neither amqp:// nor amqps://")
    if not host:
        raise WireError("connection_url names no host")
    vhost = unquote(parts.path[1:]) or "/"
    if not is_short_string(vhost):
        raise WireError("connection_url names too long a virtual host")
    tls = parts.scheme == "amqps"
    return BrokerAddress(
        tls=tls,
        host=host,
        port=port or given_port or (5671 if tls else 5672),
        vhost=vhost,
        user=unquote(parts.username or "guest"),
        password=unquote(parts.password or "guest"),
    )


def parameters(
    address: BrokerAddress, heartbeat_s: int = 30, blocked_s: float | None = None
) -> pika.ConnectionParameters:
    """pika's parameters for one attempt; ``blocked_s`` ends a connection that a broker in
    memory or disk alarm has blocked for so long. Raises ssl.SSLError, OSError."""
    tls = pika.SSLOptions(ssl.create_default_context(), address.host) if address.tls else None
    return pika.ConnectionParameters(
        host=address.host,
        port=address.port,
        virtual_host=address.vhost,
        credentials=pika.PlainCredentials(address.user, address.password),
        ssl_options=tls,
        heartbeat=heartbeat_s,
        blocked_connection_timeout=blocked_s,
        connection_attempts=1,
        socket_timeout=CONNECT_TIMEOUT_S,
        stack_timeout=CONNECT_TIMEOUT_S,
    )


_TELLING = (exceptions.ProbableAuthenticationError, exceptions.ProbableAccessDeniedError)


def _causes(error: Any) -> Iterator[BaseException]:
    """The innermost reasons of pika's nested connection errors."""
    nested = [*getattr(error, "exceptions", ()), getattr(error, "exception", None)]
    if isinstance(error, exceptions.AMQPConnectionError) and type(error) not in _TELLING:
        nested += [a for a in error.args if isinstance(a, BaseException)]
    inner = [e for e in nested if isinstance(e, BaseException)]
    if not inner:
        yield error
    for one in inner:
        yield from _causes(one)


def _plain(error: BaseException) -> str:
    if isinstance(error, _TELLING) and "StreamLostError" in str(error):
        return "the connection was lost during the login"
    if isinstance(error, exceptions.ProbableAuthenticationError):
        return "the broker refused the credentials"
    if isinstance(error, exceptions.ProbableAccessDeniedError):
        return "the broker refused access to the virtual host"
    if isinstance(error, (exceptions.ConnectionClosed, exceptions.ChannelClosed)):
        return f"{error.reply_code} {error.reply_text}"
    if isinstance(error, OSError) and error.strerror:
        return str(error.strerror)
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__


def describe(error: BaseException) -> str:
    """Why a connection or channel ended, in at most 300 characters."""
    reasons = dict.fromkeys(_plain(e) for e in _causes(error))
    return "; ".join(reasons)[:300]
