"""The socketpair to the master inside pika's loop: never blocks, whatever the master does."""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import Any

from mepd.errors import WireError
from mepd.wire import codec, framing
from mepd.wire.worker import TO_CONSUMER

_CHUNK = 256 * 1024
BACKLOG_MAX = 4 * 1024 * 1024
"""Bytes the master may owe before messages that only count things are dropped."""


class MasterPipe:
    """Decodes what the master sends, buffers what it has not yet read.

    The buffer is bounded by the prefetch limit: a request is held until it is settled.
    ``on_end`` is called once with None at end of file, or with the fault of the stream.
    """

    def __init__(
        self,
        sock: socket.socket,
        loop: Any,
        on_message: Callable[[Any], None],
        on_end: Callable[[WireError | None], None],
    ) -> None:
        sock.setblocking(False)
        self._sock = sock
        self._loop = loop
        self._on_message = on_message
        self._on_end = on_end
        self._reader = framing.FrameReader(framing.WORKER_FRAME_MAX)
        self._out = bytearray()
        self._ended = False
        loop.add_handler(sock.fileno(), self._handle, loop.READ)

    def send(self, message: Any) -> None:
        """Queue one message. Raises WireError when it is too large for a frame."""
        frame = framing.encode_frame(codec.encode(message), framing.WORKER_FRAME_MAX)
        if self._ended:
            return
        waiting = bool(self._out)
        self._out += frame
        if not waiting:
            self._flush()

    def send_if_idle(self, message: Any) -> None:
        """Queue a message that may be lost when the master is far behind."""
        if len(self._out) < BACKLOG_MAX:
            self.send(message)

    def _flush(self) -> None:
        try:
            while self._out:
                sent = self._sock.send(memoryview(self._out)[:_CHUNK])
                del self._out[:sent]
        except BlockingIOError:
            pass
        except OSError:
            self._out.clear()  # the read side tells the end
        mask = self._loop.READ | (self._loop.WRITE if self._out else 0)
        self._loop.update_handler(self._sock.fileno(), mask)

    def _handle(self, _fd: int, events: int) -> None:
        if events & self._loop.WRITE:
            self._flush()
        if events & (self._loop.READ | self._loop.ERROR):
            self._read()

    def _read(self) -> None:
        try:
            data = self._sock.recv(_CHUNK)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._end(None)
            return
        try:
            messages = [codec.decode(obj, TO_CONSUMER) for obj in self._reader.feed(data)]
        except WireError as e:
            self._end(e)
            return
        for message in messages:
            self._on_message(message)

    def _end(self, fault: WireError | None) -> None:
        if not self._ended:
            self._ended = True
            self._loop.remove_handler(self._sock.fileno())
            self._on_end(fault)
