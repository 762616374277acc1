"""One HTTP connection: uvicorn's, with the bounds on time and number that it lacks."""

from __future__ import annotations

import asyncio
import json
import resource
from dataclasses import dataclass
from typing import Any, ClassVar

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from mepd.gateway.failures import malformed

HEAD_S = 20.0
"""For the head of a request, from the connection's begin or the head's first byte."""
WRITE_S = 30.0
"""In which some of an answer must be taken."""
UNREAD_MAX = 256 * 1024 * 1024
"""Bytes of all answers that wait to be taken; beyond it, who lets them wait longest loses."""
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
    stalled: ClassVar[dict[Connection, None]] = {}
    """Those with an answer that waits, the oldest first."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._head_timer: asyncio.TimerHandle | None = None
        self._write_timer: asyncio.TimerHandle | None = None
        self._since = self.loop.time()

    @property
    def idle(self) -> bool:
        """Whether no request is being answered."""
        return self.cycle is None or self.cycle.response_complete

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if len(self.connections) > self.most:
            waiting = [c for c in self.connections if isinstance(c, Connection) and c.idle]
            oldest = min(waiting, key=lambda c: c._since, default=self)
            oldest.transport.abort()
            self.connections.discard(oldest)
        self._await_head()

    def connection_lost(self, exc: Exception | None) -> None:
        for timer in (self._head_timer, self._write_timer):
            if timer is not None:
                timer.cancel()
        self.stalled.pop(self, None)
        super().connection_lost(exc)

    # --- a head that does not come ----------------------------------------------------
    def _await_head(self) -> None:
        if self._head_timer is None:
            self._head_timer = self.loop.call_later(HEAD_S, self.transport.abort)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self.transport.is_closing():
            return
        if self.idle and self.timeout_keep_alive_task is None:
            self._await_head()
        elif self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def on_response_complete(self) -> None:
        self._since = self.loop.time()
        super().on_response_complete()

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
        self._watch_writing()
        self.stalled[self] = None
        if sum(c.transport.get_write_buffer_size() for c in self.stalled) > UNREAD_MAX:
            oldest = next(iter(self.stalled))
            del self.stalled[oldest]
            oldest.transport.abort()

    def _watch_writing(self) -> None:
        left = self.transport.get_write_buffer_size()
        self._write_timer = self.loop.call_later(WRITE_S, self._check_writing, left)

    def _check_writing(self, before: int) -> None:
        if self.transport.get_write_buffer_size() < before:
            self._watch_writing()
        else:
            self.transport.abort()

    def resume_writing(self) -> None:
        if self._write_timer is not None:
            self._write_timer.cancel()
            self._write_timer = None
        self.stalled.pop(self, None)
        super().resume_writing()
