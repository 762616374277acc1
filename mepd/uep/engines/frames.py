"""Frames between the UEP and its workers: a kind, a JSON header, and opaque bytes.

Bodies are the service's own messages, so that neither side packs them twice.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

from mepd.errors import WireError

SETUP, READY, TASK, RESULT = b"S", b"Y", b"T", b"R"
WAITING, STATE, LOST, FAILED = b"W", b"M", b"L", b"F"
"""Of the Parsl engines: tasks that wait, what is connected, a task lost, all lost."""
KINDS = (SETUP, READY, TASK, RESULT, WAITING, STATE, LOST, FAILED)
HEADER_MAX = 64 * 1024
BODY_MAX = 512 * 1024 * 1024  # RabbitMQ takes no larger message, however configured
_HEAD = struct.Struct(">cII")
# Of our own: a task may have put other functions into the module json.
_encode = json.JSONEncoder(separators=(",", ":")).encode
_decode = json.JSONDecoder().decode


@dataclass(frozen=True)
class Frame:
    """``kind`` is one of KINDS."""

    kind: bytes
    header: dict[str, Any]
    body: bytes = b""


def pack(frame: Frame) -> bytes:
    header = _encode(frame.header).encode("ascii")
    if len(header) > HEADER_MAX or len(frame.body) > BODY_MAX:
        raise WireError("worker frame is too large")
    return _HEAD.pack(frame.kind, len(header), len(frame.body)) + header + frame.body


def _sizes(head: bytes | bytearray) -> tuple[bytes, int, int]:
    kind, header, body = _HEAD.unpack_from(head)
    if kind not in KINDS or header > HEADER_MAX or body > BODY_MAX:
        raise WireError("worker frame is malformed")
    return kind, header, body


def _header(data: bytes) -> dict[str, Any]:
    try:
        value = _decode(data.decode())
    except (ValueError, RecursionError):
        raise WireError("worker frame has no JSON header") from None
    if type(value) is not dict:
        raise WireError("worker frame's header is no object")
    return value


class FrameBuffer:
    """Collects bytes and yields whole frames; WireError makes the stream unusable."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> Iterator[Frame]:
        buffer = self._buffer
        buffer += data
        at = 0
        try:
            while len(buffer) - at >= _HEAD.size:
                kind, header, body = _sizes(memoryview(buffer)[at : at + _HEAD.size].tobytes())
                start = at + _HEAD.size
                end = start + header + body
                if len(buffer) < end:
                    return
                at = end
                yield Frame(
                    kind,
                    _header(bytes(buffer[start : start + header])),
                    bytes(buffer[start + header : end]),
                )
        finally:
            del buffer[:at]


class Source(Protocol):
    """What frames are read from: a blocking socket, or what stands for one."""

    def recv_into(self, buffer: memoryview, /) -> int: ...


def _receive(sock: Source, size: int) -> bytes:
    data = bytearray(size)
    view, at = memoryview(data), 0
    while at < size:
        count = sock.recv_into(view[at:])
        if not count:
            raise EOFError
        at += count
    return bytes(data)


def read(sock: Source) -> Frame:
    """The next frame of a blocking socket. Raises EOFError, WireError, OSError."""
    kind, header, body = _sizes(_receive(sock, _HEAD.size))
    parsed = _header(_receive(sock, header))
    return Frame(kind, parsed, _receive(sock, body) if body else b"")
