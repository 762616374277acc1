"""Signals as events of the loop; the handlers themselves do nothing."""

from __future__ import annotations

import signal
import socket
from collections.abc import Callable

from mepd.uep.amqp import IOLoop

STOP = (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT, signal.SIGHUP)


class Signals:
    """Calls ``on_stop(signum)`` and ``on_child()`` in the loop. Make it in the main thread."""

    def __init__(
        self, loop: IOLoop, on_stop: Callable[[int], None], on_child: Callable[[], None]
    ) -> None:
        self._on_stop = on_stop
        self._on_child = on_child
        self._ours, self._kernels = socket.socketpair()
        self._ours.setblocking(False)
        self._kernels.setblocking(False)
        signal.set_wakeup_fd(self._kernels.fileno(), warn_on_full_buffer=False)
        for number in (*STOP, signal.SIGCHLD):
            signal.signal(number, lambda _signum, _frame: None)
        loop.add_handler(self._ours.fileno(), self._on_event, IOLoop.READ)

    def _on_event(self, _fd: int, _events: int) -> None:
        try:
            numbers = set(self._ours.recv(4096))
        except BlockingIOError:
            return
        if signal.SIGCHLD in numbers:
            self._on_child()
        for number in STOP:
            if number in numbers:
                self._on_stop(number)
                return
