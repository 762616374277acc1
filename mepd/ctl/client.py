"""Talks to the control socket of mepd(8)."""

from __future__ import annotations

import os
import socket
from pathlib import Path
from typing import Any

from mepd.errors import ControlError, WireError
from mepd.wire import control
from mepd.wire.framing import CONTROL_FRAME_MAX, FrameReader, encode_frame

TIMEOUT_S = 20.0
ANSWER_MAX = 8 * 1024 * 1024


class NotRunning(ControlError):
    """Nobody listens at the socket: mepd is not running."""

    def __init__(self, message: str) -> None:
        super().__init__(message, os.EX_UNAVAILABLE)


def call(path: Path, verb: str, **args: Any) -> Any:
    """Ask mepd; the data of its answer.

    Raises NotRunning if nobody listens, ControlError for a refusal or a broken answer.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        sock.settimeout(TIMEOUT_S)
        try:
            sock.connect(str(path))
            sock.sendall(encode_frame(control.request(verb, args), CONTROL_FRAME_MAX))
            return _answer(sock)
        except (FileNotFoundError, ConnectionRefusedError):
            raise NotRunning(f"mepd is not running (nobody listens at {path})") from None
        except TimeoutError:
            raise ControlError(
                f"no answer from {path} in {TIMEOUT_S:.0f} s", os.EX_TEMPFAIL
            ) from None
        except PermissionError as e:
            raise ControlError(f"{path}: {e.strerror}", os.EX_NOPERM) from None
        except OSError as e:
            raise ControlError(f"{path}: {e.strerror or e}", os.EX_IOERR) from None
        except WireError as e:
            raise ControlError(f"{path}: {e}", os.EX_PROTOCOL) from None


def _answer(sock: socket.socket) -> Any:
    reader = FrameReader(ANSWER_MAX)
    while data := sock.recv(65536):
        for frame in reader.feed(data):
            return control.parse_answer(frame)
    raise ControlError("mepd closed the connection without an answer", os.EX_PROTOCOL)
