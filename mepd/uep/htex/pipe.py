"""The host's end of the socket to its UEP."""

from __future__ import annotations

import socket
import threading

from mepd.uep.engines import frames


class Pipe:
    """Frames to the UEP, from any thread."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self._lock = threading.Lock()

    def send(self, frame: frames.Frame) -> None:
        data = frames.pack(frame)
        with self._lock:
            try:
                self.sock.sendall(data)
            except OSError:
                pass  # the UEP has gone, which the main thread learns by itself
