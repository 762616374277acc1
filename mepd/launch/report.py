"""The stage socket: what the launch child tells the master, and its verdict."""

from __future__ import annotations

import fcntl
import socket
from typing import Any

from mepd.wire import codec
from mepd.wire.framing import FrameReader, encode_frame
from mepd.wire.stages import TO_LAUNCH, Failed, Verdict

_TEXT_MAX = 2000


class StageSocket:
    """Blocking, close-on-exec: its end of file tells the master that the exec worked."""

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(True)
        sock.set_inheritable(False)
        self._sock = sock
        self._reader = FrameReader()

    def fileno(self) -> int:
        return self._sock.fileno()

    def move_above(self, floor: int) -> None:
        """Make room below ``floor`` for the descriptors of the program to be exec'ed."""
        moved = fcntl.fcntl(self._sock.fileno(), fcntl.F_DUPFD_CLOEXEC, floor)
        self._sock.close()
        self._sock = socket.socket(fileno=moved)

    def send(self, message: Any) -> None:
        """Raises OSError when the master is gone."""
        self._sock.sendall(encode_frame(codec.encode(message)))

    def send_failure(self, stage: str, code: int, reason: str, public: str) -> None:
        self.send(Failed(stage, code, reason[:_TEXT_MAX], public[:_TEXT_MAX]))

    def verdict(self) -> Verdict:
        """Wait for the master's word. A master that is gone says no."""
        while True:
            data = self._sock.recv(65536)
            if not data:
                return Verdict(False, "mepd is gone")
            for frame in self._reader.feed(data):
                return codec.decode(frame, TO_LAUNCH)

    def close(self) -> None:
        self._sock.close()
