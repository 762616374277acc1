"""A wire between a client and the broker: cut, taken away, made silent, slow or short-lived."""

from __future__ import annotations

import contextlib
import select
import socket
import threading
import time
from collections.abc import Sequence


class Proxy:
    """Forwards TCP to ``target``, a port of the loopback, from ``port``.

    Each piece of ``piece`` bytes takes ``delay`` seconds. Of ``lives`` each is how many
    bytes one connection carries before it is cut, or with ``holds`` stands still, open;
    those after them are not.
    """

    def __init__(
        self, target: int, piece: int = 65536, delay: float = 0.0, lives: Sequence[int] = (),
        holds: bool = False,
    ) -> None:  # fmt: skip
        self._target = target
        self._holds = holds
        self._piece, self._delay, self.lives = piece, delay, list(lives)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._socks: list[socket.socket] = []
        self._silent = False
        threading.Thread(target=self._accept, args=(self._listener,), daemon=True).start()

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                near, _ = listener.accept()
            except OSError:
                return
            far = socket.create_connection(("127.0.0.1", self._target))
            self._socks += [near, far]
            threading.Thread(target=self._forward, args=(near, far), daemon=True).start()

    def _forward(self, near: socket.socket, far: socket.socket) -> None:
        other = {near: far, far: near}
        left = self.lives.pop(0) if self.lives else None
        try:
            while True:
                for sock in select.select([near, far], [], [])[0]:
                    data = sock.recv(self._piece)
                    if not data:
                        return
                    time.sleep(self._delay)
                    if left is not None:
                        data, left = data[:left], left - len(data)
                        if left < 0:
                            other[sock].sendall(data)
                            if not self._holds:
                                return
                            data = b""
                    if sock is near or not self._silent:
                        other[sock].sendall(data)
        except (OSError, ValueError):
            return
        finally:
            near.close()
            far.close()

    def silence(self) -> None:
        """The broker hears, and is heard no more, on the connections that there are."""
        self._silent = True

    def cut(self) -> None:
        """End the connections; new ones are still forwarded."""
        self._silent = False
        socks, self._socks = self._socks, []
        for sock in socks:
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)

    def end(self) -> None:
        """Refuse new connections, and end those that there are."""
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.cut()

    def back(self) -> None:
        """Listen again."""
        self._listener = socket.create_server(("127.0.0.1", self.port))
        threading.Thread(target=self._accept, args=(self._listener,), daemon=True).start()
