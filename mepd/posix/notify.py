"""The service manager's notification socket: sd_notify(3) without its library."""

from __future__ import annotations

import contextlib
import os
import socket
import time
from collections.abc import Mapping


class Notifier:
    """Tells the service manager, if there is one; never blocks, never fails."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        """``environ`` is the environment that the service manager gave."""
        self._address = _address(environ.get("NOTIFY_SOCKET", ""))
        self._socket: socket.socket | None = None
        self.watchdog = _watchdog(environ) if self._address else 0.0
        """Seconds within which the manager wants a sign of life; 0 for never."""

    @property
    def is_managed(self) -> bool:
        return bool(self._address)

    def tell(self, **assignments: str | int) -> None:
        """Send e.g. READY=1, STATUS="..." as one message. A full socket loses it."""
        if not self._address:
            return
        text = "\n".join(f"{k}={str(v).replace(chr(10), ' ')}" for k, v in assignments.items())
        with contextlib.suppress(OSError):
            if self._socket is None:
                flags = socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK
                self._socket = socket.socket(socket.AF_UNIX, flags)
            self._socket.sendto(text.encode("utf-8", "replace"), self._address)

    def reloading(self) -> None:
        """A reload begins; READY=1 ends it. The time is for Type=notify-reload."""
        self.tell(RELOADING=1, MONOTONIC_USEC=time.monotonic_ns() // 1000)


def _address(path: str) -> str:
    """A path, or ``@`` and a name in the abstract namespace; anything else is none."""
    if path.startswith("@"):
        return "\0" + path[1:]
    return path if path.startswith("/") else ""


def _watchdog(environ: Mapping[str, str]) -> float:
    """sd_watchdog_enabled(3): meant for this process, and a number of microseconds."""
    if environ.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return 0.0
    usec = environ.get("WATCHDOG_USEC", "")
    return int(usec) / 1e6 if usec.isascii() and usec.isdigit() else 0.0
