"""A non-blocking stream of frames on the master's loop."""

from __future__ import annotations

import logging
import socket
from collections.abc import Callable
from typing import Any

from mepd.errors import WireError
from mepd.master.loop import Loop
from mepd.wire import codec
from mepd.wire.framing import WORKER_FRAME_MAX, FrameReader, encode_frame

log = logging.getLogger(__name__)

_CHUNK = 256 * 1024
_PENDING_MAX = 4 * WORKER_FRAME_MAX
TURN_MAX = 0.005
"""Seconds of a turn of the loop for what one peer sent; what is left waits for the next."""
_ALL_MAX = 0.01
"""After so much of a turn each peer gets one frame only, however many there are."""
_DRAIN_MAX = 0.05
_LARGE = 256 * 1024
_LARGE_RATE = 4 * 1024 * 1024
"""Bytes a second of frames beyond ``_LARGE``: parsing one is one turn, however long it takes."""


class Channel:
    """Frames in, frames out; never blocks the loop, nor fills its turns: a peer that sends
    without end is read as fast as the rest of the loop allows.

    ``on_frame`` gets every decoded JSON value. ``on_close`` is called once, when the peer
    closes, breaks the framing, or reads so little that too much waits to be sent; the
    reason is '' for a plain end of file. close() by the owner calls nothing.
    ``last_word`` gives what a peer that breaks the framing is told before.
    """

    def __init__(
        self,
        loop: Loop,
        sock: socket.socket,
        on_frame: Callable[[Any], None],
        on_close: Callable[[str], None],
        limit: int = WORKER_FRAME_MAX,
        send_limit: int = WORKER_FRAME_MAX,
        last_word: Callable[[str], Any] | None = None,
    ) -> None:
        sock.setblocking(False)
        self._loop = loop
        self._sock: socket.socket | None = sock
        self._fd = sock.fileno()
        self._on_frame = on_frame
        self._on_close = on_close
        self._reader = FrameReader(limit)
        self._out = bytearray()
        self._send_limit = send_limit
        self._received = 0
        self._behind = False
        self._last_word = last_word
        self._closing = False
        loop.watch(sock.fileno(), self._read)

    @property
    def is_open(self) -> bool:
        return self._sock is not None

    @property
    def unsent(self) -> int:
        """Bytes that wait for the peer to read."""
        return len(self._out)

    def send(self, value: Any) -> None:
        """Queue a JSON value. Raises WireError if it is too large for a frame."""
        if self._sock is None:
            return
        self._out += encode_frame(value, self._send_limit)
        if len(self._out) > _PENDING_MAX:
            self._fail("the peer does not read")
            return
        self._write()

    def send_message(self, message: Any) -> None:
        """Queue a message dataclass."""
        self.send(codec.encode(message))

    def drain(self) -> None:
        """Read what has already arrived, for an owner that is about to close.

        Of a peer that had more to say than an honest one has, not all. What fails is logged:
        the owner has its own end to see to.
        """
        until = self._loop.clock() + _DRAIN_MAX
        while self._sock is not None and self._loop.clock() < until:
            before = self._received, self._reader.pending
            try:
                self._take(b"", until)  # what waits to be handled comes before the end of file
                if self._sock is not None and self._reader.pending == before[1]:
                    self._receive(until)
            except Exception:
                log.exception("a last word was not handled")
            if (self._received, self._reader.pending) == before:
                return

    def close(self) -> None:
        if self._sock is not None:
            self._loop.forget(self._fd)
            self._sock.close()
            self._sock = None

    def finish(self) -> None:
        """Close as soon as all is sent; ``on_close`` is called then, and nothing more is read."""
        self._closing = True
        self._write()

    def _fail(self, reason: str) -> None:
        if self._sock is not None:
            self.close()
            self._on_close(reason)

    def _read(self) -> None:
        self._receive(self._turn_ends())

    def _turn_ends(self) -> float:
        return min(self._loop.clock() + TURN_MAX, self._loop.turn_began + _ALL_MAX)

    def _receive(self, until: float) -> None:
        assert self._sock is not None, "a closed channel is watched"
        try:
            data = self._sock.recv(_CHUNK)
        except BlockingIOError:
            return
        except ConnectionResetError:
            data = b""  # the peer ended with something of ours unread
        except OSError as e:
            self._fail(str(e))
            return
        if not data:
            self._fail("")
            return
        self._received += len(data)
        self._take(data, until)

    def _take(self, data: bytes, until: float) -> None:
        """Handle frames ``until`` then; nothing more is read before the rest is handled."""
        if self._sock is None:
            return
        try:
            for frame in self._reader.feed(data):
                self._on_frame(frame)
                if self._sock is None or self._closing:
                    return
                large = self._reader.size > _LARGE
                if large or self._loop.clock() >= until:
                    self._pause(self._reader.size / _LARGE_RATE if large else 0.0)
                    return
        except WireError as e:
            if self._last_word is not None:
                self.send(self._last_word(str(e)))
            self._fail(str(e))
        except Exception:
            self._pause(0.0)  # the frames after this one
            raise

    def _pause(self, seconds: float) -> None:
        if not self._behind:
            self._behind = True
            self._look()
            self._loop.call_later(seconds, self._go_on)

    def _go_on(self) -> None:
        self._behind = False
        if self._sock is not None and not self._closing:
            self._look()
            self._take(b"", self._turn_ends())

    def _look(self) -> None:
        read = None if self._closing or self._behind else self._read
        self._loop.watch(self._fd, read, self._write if self._out else None)

    def _has_last_words(self) -> bool:
        """Whether a peer that has ended said something that is to be read or handled yet."""
        assert self._sock is not None
        if self._reader.pending:
            return True
        try:
            return bool(self._sock.recv(1, socket.MSG_PEEK))
        except OSError:
            return False

    def _write(self) -> None:
        if self._sock is None:
            return
        try:
            while self._out:
                sent = self._sock.send(memoryview(self._out)[:_CHUNK])
                del self._out[:sent]
        except BlockingIOError:
            pass
        except BrokenPipeError:
            self._out.clear()
            if not self._has_last_words():
                self._fail("")  # that it has gone breaks no protocol
                return
        except OSError as e:
            self._fail(str(e))
            return
        if self._closing and not self._out:
            self._fail("")
            return
        self._look()
