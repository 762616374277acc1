"""The socket to mepd: activity reports up, word of new credentials down, its end is ours."""

from __future__ import annotations

import logging
import socket
from collections.abc import Callable

from mepd.errors import WireError
from mepd.uep.amqp import IOLoop
from mepd.wire.activity import TO_UEP, ActivityReport
from mepd.wire.codec import decode, encode
from mepd.wire.framing import NOTIFY_FRAME_MAX, FrameReader, encode_frame

log = logging.getLogger(__name__)

_BUFFER_MAX = 16 * NOTIFY_FRAME_MAX


class Notify:
    """``on_gone`` is called once, at the end of file: mepd is dead or has let go of us."""

    def __init__(
        self,
        loop: IOLoop,
        fd: int,
        on_refreshed: Callable[[], None],
        on_gone: Callable[[], None],
    ) -> None:
        self._loop = loop
        self._sock = socket.socket(fileno=fd)
        self._sock.setblocking(False)
        self._sock.set_inheritable(False)
        self._on_refreshed = on_refreshed
        self._on_gone = on_gone
        self._reader = FrameReader(NOTIFY_FRAME_MAX)
        self._output = bytearray()
        loop.add_handler(fd, self._on_event, IOLoop.READ)

    def report(self, activity: ActivityReport) -> None:
        """Send a report; it is dropped while mepd does not read."""
        if len(self._output) < _BUFFER_MAX:
            self._output += encode_frame(encode(activity), NOTIFY_FRAME_MAX)
            self._flush()

    def _flush(self) -> None:
        try:
            del self._output[: self._sock.send(self._output)]
        except BlockingIOError:
            pass
        except OSError:
            return  # the end of file follows
        events = IOLoop.READ | IOLoop.WRITE if self._output else IOLoop.READ
        self._loop.update_handler(self._sock.fileno(), events)

    def _on_event(self, _fd: int, events: int) -> None:
        if events & IOLoop.WRITE:
            self._flush()
        if events & ~IOLoop.WRITE:
            self._read()

    def _read(self) -> None:
        try:
            data = self._sock.recv(65536)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._loop.remove_handler(self._sock.fileno())
            self._on_gone()
            return
        try:
            for obj in self._reader.feed(data):
                decode(obj, TO_UEP)  # which has one kind of message
                self._on_refreshed()
        except WireError as e:
            log.error("mepd sent what is no message: %s", e)
            self._reader = FrameReader(NOTIFY_FRAME_MAX)
