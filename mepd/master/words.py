"""What a process that writes a file for the master says of it: JSON objects in packets."""

from __future__ import annotations

import json
import socket
from typing import Any

SIZE_MAX = 4096


def hear(sock: socket.socket) -> dict[str, Any] | None:
    """The next word of a socket that does not block; None if there is none now.

    Raises EOFError when the process is gone.
    """
    try:
        data = sock.recv(SIZE_MAX)
    except BlockingIOError:
        return None
    except OSError:
        data = b""
    if not data:
        raise EOFError
    word: dict[str, Any] = json.loads(data)
    return word
