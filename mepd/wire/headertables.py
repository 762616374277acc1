"""Header tables of AMQP messages, read so that none of them ends a connection.

pika lets what it cannot decode (a time that is no date, arrays in arrays without end) fail
the connection; the broker would deliver the same message to the next one, for ever.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any

UNREADABLE = "unreadable"
"""The only key of a table that cannot be decoded; its value is a short reason."""
Decode = Callable[[bytes, int], tuple[dict[Any, Any], int]]
_SIZE = struct.Struct(">I")


def total(decode: Decode) -> Decode:
    """``decode`` for a table of any content: AMQP 0-9-1, 4.2.5.5, tells its size before it."""

    def decode_table(encoded: bytes, offset: int) -> tuple[dict[Any, Any], int]:
        end = offset + _SIZE.size + _SIZE.unpack_from(encoded, offset)[0]
        try:
            return decode(encoded, offset)[0], end
        except Exception as e:
            return {UNREADABLE: type(e).__name__}, end

    return decode_table


def harden(codec: Any) -> None:
    """Have the module ``pika.data`` decode tables so, in all of this process."""
    if not getattr(codec.decode_table, "hardened", False):
        codec.decode_table = total(codec.decode_table)
        codec.decode_table.hardened = True
