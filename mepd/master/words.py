"""What a process that writes a file for the master says of it: JSON objects in packets."""

from __future__ import annotations

import socket
from typing import Any

from mepd.errors import WireError
from mepd.wire.framing import parse_json

SIZE_MAX = 4096


def hear(sock: socket.socket) -> dict[str, Any] | None:
    """The next word of a socket that does not block; None if there is none now.

    Raises EOFError when the process is gone, WireError for what none of ours says.
    """
    try:
        data = sock.recv(SIZE_MAX)
    except BlockingIOError:
        return None
    except OSError:
        data = b""
    if not data:
        raise EOFError
    return parse(data)


def parse(data: bytes) -> dict[str, Any]:
    """The word that a packet holds. Raises WireError."""
    word = parse_json(data)
    if type(word) is not dict or not all(isinstance(v, (str, bool)) for v in word.values()):
        raise WireError("it is no object of texts")
    return word
