"""Messages with headers that the broker takes, and that pika cannot decode."""

from __future__ import annotations

import struct
from typing import Any

import pika


def _arrays(depth: int) -> bytes:
    value = b"V"
    for _ in range(depth):
        value = b"A" + struct.pack(">I", len(value)) + value
    return value


ODD_HEADERS: dict[str, bytes] = {
    "a time that is no date": b"T" + struct.pack(">Q", 2**63),
    "arrays in arrays": _arrays(5000),
}
"""AMQP field values, as they travel."""
_CONTENT_TYPE, _HEADERS, _TIMESTAMP = 1 << 15, 1 << 13, 1 << 6


class OddProperties(pika.BasicProperties):  # type: ignore[misc]
    """Of a JSON message with one header ``x`` that is ``value``."""

    def __init__(self, value: bytes, timestamp: int = 0) -> None:
        super().__init__()
        self._table = b"\x01x" + value
        self._time = timestamp

    def encode(self) -> list[Any]:
        kind = b"application/json"
        return [
            struct.pack(">H", _CONTENT_TYPE | _HEADERS | _TIMESTAMP),
            bytes([len(kind)]) + kind,
            struct.pack(">I", len(self._table)) + self._table,
            struct.pack(">Q", self._time),
        ]
