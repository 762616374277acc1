"""One HTTP connection: uvicorn's, with the bounds on time and number that it lacks."""

from __future__ import annotations

import asyncio
import json
import resource
import ssl
from asyncio.sslproto import SSLProtocol
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from mepd.errors import ConfigError
from mepd.gateway.failures import malformed

HEAD_S = 20.0
"""For the head of a request, from the connection's begin or the head's first byte."""
WRITE_S = 30.0
"""In which some of an answer must be taken."""
UNREAD_MAX = 256 * 1024 * 1024
"""Bytes of all answers that wait to be taken; beyond it, who lets them wait longest loses."""
_PIECE = 64 * 1024
FILES_MAX = 65_536
ACCEPTED_MAX = 128
"""Connections taken in one turn of the loop."""
SPARE_FILES = 256
"""Descriptors for the store, the broker and all else but connections."""
_TURNS = 4
"""From one that is taken to the end of the one that gives way to it: asyncio makes its
transport, tells its protocol, and tells the other's, each in a turn, and takes more in each."""


@dataclass(frozen=True)
class Room:
    """How many connections the process has descriptors for."""

    most: int
    at_once: int
    """To be taken in one turn of the loop."""


def room(files: int) -> Room:
    """For a process that may have ``files`` descriptors."""
    at_once = max(1, min(ACCEPTED_MAX, files // 16))
    spare = min(SPARE_FILES, files // 4)
    return Room(max(1, files - spare - _TURNS * at_once), at_once)


def raise_file_limit() -> Room:
    """Take as many descriptors as the process may have."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    files = FILES_MAX if hard == resource.RLIM_INFINITY else min(hard, FILES_MAX)
    resource.setrlimit(resource.RLIMIT_NOFILE, (files, hard))
    return room(files)


class Connection(H11Protocol):
    """At most ``most`` at a time: of those without a request, the oldest gives way."""

    most = FILES_MAX
    beginning: ClassVar[set[Connection]] = set()
    """Those with a TLS handshake that is not done."""
    unoccupied: ClassVar[dict[Connection, None]] = {}
    """Those without a request, the oldest first; among them those of ``beginning``."""
    stalled: ClassVar[dict[Connection, None]] = {}
    """Those with an answer that waits, the oldest first."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.below: asyncio.Transport | None = None
        """What carries TLS."""
        self.pieces: _Pieces | None = None
        self._head_timer: asyncio.TimerHandle | None = None
        self._write_timer: asyncio.TimerHandle | None = None

    @property
    def idle(self) -> bool:
        """Whether no request is being answered."""
        return self.cycle is None or self.cycle.response_complete

    def begin_tls(self, below: asyncio.Transport) -> None:
        self.below = below
        self.beginning.add(self)
        self._admit()

    def _admit(self) -> None:
        self.unoccupied[self] = None
        if len(self.connections) + len(self.beginning) > self.most:
            oldest = next(iter(self.unoccupied))
            oldest.abort()
            oldest.forget()

    def abort(self) -> None:
        (self.below or self.transport).abort()

    def forget(self) -> None:
        """It has no descriptor any more, or soon."""
        self.beginning.discard(self)
        self.connections.discard(self)
        self.unoccupied.pop(self, None)
        self.stalled.pop(self, None)

    def _note_idle(self) -> None:
        self.unoccupied.pop(self, None)
        if self.idle and not self.transport.is_closing():
            self.unoccupied[self] = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        if self.below is not None:
            transport = self.pieces = _Pieces(transport, self.below)
        super().connection_made(transport)
        self.beginning.discard(self)
        if self.below is None:
            self._admit()
        self._await_head()

    def connection_lost(self, exc: Exception | None) -> None:
        for timer in (self._head_timer, self._write_timer):
            if timer is not None:
                timer.cancel()
        self.forget()
        super().connection_lost(exc)

    # --- a head that does not come ----------------------------------------------------
    def _await_head(self) -> None:
        if self._head_timer is None:
            self._head_timer = self.loop.call_later(HEAD_S, self.abort)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if not self.idle:
            self.unoccupied.pop(self, None)
        if self.transport.is_closing():
            return
        if self.idle and self.timeout_keep_alive_task is None:
            self._await_head()
        elif self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._note_idle()

    def send_400_response(self, msg: str) -> None:
        """In the form of all refusals, unless an answer has begun."""
        if self.conn.our_state not in (h11.IDLE, h11.SEND_RESPONSE):
            self.transport.close()
            return
        body = json.dumps(malformed(msg).body()).encode("ascii")
        headers = [
            (b"content-type", b"application/json"),
            (b"content-length", str(len(body)).encode("ascii")),
            (b"connection", b"close"),
        ]
        response = h11.Response(status_code=400, headers=headers, reason=b"Bad Request")
        for event in (response, h11.Data(data=body), h11.EndOfMessage()):
            self.transport.write(self.conn.send(event) or b"")
        self.transport.close()

    # --- an answer that nobody takes --------------------------------------------------
    def pause_writing(self) -> None:
        super().pause_writing()
        if self._write_timer is None:
            self._watch_writing()
        self.stalled[self] = None
        if sum(c.transport.get_write_buffer_size() for c in self.stalled) > UNREAD_MAX:
            oldest = next(iter(self.stalled))
            del self.stalled[oldest]
            oldest.abort()

    def _watch_writing(self) -> None:
        left = self.transport.get_write_buffer_size()
        self._write_timer = self.loop.call_later(WRITE_S, self._check_writing, left)

    def _check_writing(self, before: int) -> None:
        if self.transport.get_write_buffer_size() < before:
            self._watch_writing()
        else:
            self.abort()

    def resume_writing(self) -> None:
        if self._write_timer is not None:
            self._write_timer.cancel()
            self._write_timer = None
        self.stalled.pop(self, None)
        super().resume_writing()


class _Pieces(asyncio.Transport):
    """Has what is written wait above TLS, not below it: asyncio would have all of it encrypted
    at once, and OpenSSL keeps the room that this took for as long as the connection lives."""

    def __init__(self, tls: asyncio.Transport, below: asyncio.Transport) -> None:
        super().__init__()
        self._tls = tls
        self._below = below
        self._waiting = bytearray()
        self._closing = False
        self.full = False
        """Whether what is below TLS takes no more."""
        self.get_extra_info = tls.get_extra_info  # type: ignore[method-assign]
        self.is_reading = tls.is_reading  # type: ignore[method-assign]
        self.pause_reading = tls.pause_reading  # type: ignore[method-assign]
        self.resume_reading = tls.resume_reading  # type: ignore[method-assign]

    def get_write_buffer_size(self) -> int:
        layers = (self._tls, self._below)
        return len(self._waiting) + sum(layer.get_write_buffer_size() for layer in layers)

    def write(self, data: Any) -> None:
        if not self._closing:
            self._waiting += data
            self.feed()

    def feed(self) -> None:
        while self._waiting and not self.full and not self._tls.is_closing():
            piece = bytes(self._waiting[:_PIECE])
            del self._waiting[:_PIECE]
            self._tls.write(piece)
        if self._closing and not self._waiting:
            self._tls.close()

    def is_closing(self) -> bool:
        return self._closing or self._tls.is_closing()

    def close(self) -> None:
        self._closing = True
        if self._waiting and not self._tls.is_closing():
            self._tls.pause_reading()
        else:
            self._tls.close()

    def abort(self) -> None:
        self._below.abort()


class _Tls(SSLProtocol):
    """Below a connection. asyncio's own server has it, too, but tells of no connection whose
    handshake is not done."""

    def __init__(self, inner: Connection, context: ssl.SSLContext) -> None:
        any_: Any = {"waiter": None, "ssl_handshake_timeout": HEAD_S}
        super().__init__(inner.loop, inner, context, server_side=True, **any_)
        self._inner = inner

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._inner.begin_tls(transport)

    def connection_lost(self, exc: BaseException | None) -> None:
        self._inner.forget()
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        super().pause_writing()
        if self._inner.pieces is not None:
            self._inner.pieces.full = True
            self._inner.pause_writing()

    def resume_writing(self) -> None:
        pieces = self._inner.pieces
        if pieces is None:
            super().resume_writing()
            return
        pieces.full = False
        super().resume_writing()  # may fill it again
        pieces.feed()
        if not pieces.full:
            self._inner.resume_writing()


_MISMATCHES = ("KEY_VALUES_MISMATCH", "KEY_TYPE_MISMATCH", "NO_CERTIFICATE_ASSIGNED")


def _certificate_is_good(path: str) -> bool:
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_verify_locations(path)
    except ssl.SSLError:
        return False
    return True


def _load_pair(context: ssl.SSLContext, certificate: str, key: str) -> None:
    """Raises ConfigError, which names the file at fault: OpenSSL does not."""

    def no_passphrase() -> str:  # nobody is there to be asked for one
        raise ConfigError("tls_key is encrypted", key)

    try:
        context.load_cert_chain(certificate, key, no_passphrase)
    except ssl.SSLError as e:
        if e.reason in _MISMATCHES:
            raise ConfigError(f"tls_key is not that of {certificate}", key) from None
        if not _certificate_is_good(certificate):
            text = "tls_certificate is no PEM file of certificates"
            raise ConfigError(text, certificate) from None
        if e.reason is None:
            raise ConfigError("tls_key is no PEM file of a private key", key) from None
        text = f"tls_certificate, with tls_key {key}, is refused: {e.reason}"
        raise ConfigError(text, certificate) from None
    except OSError as e:
        text = f"tls_certificate, or tls_key {key}: {e.strerror or type(e).__name__}"
        raise ConfigError(text, certificate) from None


def over_tls(certificate: str, key: str) -> Callable[..., asyncio.BaseProtocol]:
    """In the place of ``Connection``. Raises ConfigError."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    _load_pair(context, certificate, key)

    def protocol(**kwargs: Any) -> asyncio.BaseProtocol:
        return _Tls(Connection(**kwargs), context)

    return protocol
