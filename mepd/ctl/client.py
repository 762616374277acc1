"""Talks to the control socket of mepd(8)."""

from __future__ import annotations

import contextlib
import os
import socket
import struct
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mepd.errors import ControlError, WireError
from mepd.wire import control
from mepd.wire.framing import CONTROL_FRAME_MAX, FrameReader, encode_frame

TIMEOUT_S = 20.0
PATIENCE_S = 3600.0
ANSWER_MAX = 8 * 1024 * 1024


class NotRunning(ControlError):
    """Nobody listens at the socket: mepd is not running."""

    def __init__(self, message: str) -> None:
        super().__init__(message, os.EX_UNAVAILABLE)


def call(path: Path, verb: str, timeout: float = TIMEOUT_S, /, **args: Any) -> Any:
    """Ask mepd; the data of its answer.

    Raises NotRunning if nobody listens, ControlError for a refusal or a broken answer.
    """
    for answer in _conversation(path, verb, timeout, args):
        return answer
    raise ControlError("mepd closed the connection without an answer", os.EX_PROTOCOL)


def follow(path: Path, verb: str, /, **args: Any) -> Iterator[Any]:
    """The data of each answer, for as long as mepd sends them. Raises as :func:`call`."""
    return _conversation(path, verb, None, args)


def _conversation(
    path: Path, verb: str, timeout: float | None, args: dict[str, Any]
) -> Iterator[Any]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        try:
            _connect(sock, path)
            _ask(sock, encode_frame(control.request(verb, args), CONTROL_FRAME_MAX))
            yield from _answers(sock, timeout)
        except (FileNotFoundError, ConnectionRefusedError):
            raise NotRunning(
                f"mepd is not running: nobody listens at {path}; start mepd, or name its socket"
                " with -s"
            ) from None
        except (TimeoutError, BlockingIOError):
            raise ControlError(
                f"no answer from {path} in {timeout or TIMEOUT_S:.0f} s", os.EX_TEMPFAIL
            ) from None
        except PermissionError as e:
            raise ControlError(f"{path}: {e.strerror}", os.EX_NOPERM) from None
        except OSError as e:
            raise ControlError(f"{path}: {e.strerror or e}", os.EX_IOERR) from None
        except WireError as e:
            raise ControlError(f"{path}: {e}", os.EX_PROTOCOL) from None


def _connect(sock: socket.socket, path: Path) -> None:
    """Wait in the queue where others have filled it: only a blocking connect(2) does."""
    patience = struct.pack("ll", int(TIMEOUT_S), 0)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, patience)
    sock.connect(str(path))
    sock.settimeout(TIMEOUT_S)


def _ask(sock: socket.socket, frame: bytes) -> None:
    """A mepd that turns us away has said why before it closed."""
    with contextlib.suppress(BrokenPipeError):
        sock.sendall(frame)


def _answers(sock: socket.socket, timeout: float | None) -> Iterator[Any]:
    """``timeout`` is for the whole of an answer: it may come a byte at a time."""
    reader = FrameReader(ANSWER_MAX)
    deadline = None if timeout is None else time.monotonic() + timeout
    while True:
        sock.settimeout(None if deadline is None else max(0.001, deadline - time.monotonic()))
        if deadline is not None and time.monotonic() >= deadline:
            raise TimeoutError
        try:
            data = sock.recv(65536)
        except ConnectionResetError:
            return
        if not data:
            return
        for frame in reader.feed(data):
            yield _strict(control.parse_answer(frame))


class _Object(dict[str, Any]):
    """Of an answer: what it lacks, as that of another version's mepd may, is told."""

    def __missing__(self, key: str) -> Any:
        raise ControlError(
            f"mepd's answer has no {key!r}; is mepd of another version?", os.EX_PROTOCOL
        )


def _strict(value: Any) -> Any:
    if isinstance(value, dict):
        return _Object((key, _strict(inner)) for key, inner in value.items())
    return [_strict(inner) for inner in value] if isinstance(value, list) else value
