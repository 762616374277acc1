"""Length-prefixed JSON frames: four bytes, big-endian, then that many bytes of JSON.

The same framing serves the workers' socketpairs, the launch child and the control
socket; each side names its own size cap.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from typing import Any, NoReturn

from mepd.errors import WireError

_loads = json.loads  # of our own: a task may have put another into the module
HEADER = struct.Struct(">I")
WORKER_FRAME_MAX = 8 * 1024 * 1024
CONTROL_FRAME_MAX = 128 * 1024
NOTIFY_FRAME_MAX = 4096


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def parse_json(data: bytes | str, strict: bool = True) -> Any:
    """Parse strict JSON (RFC 8259): no NaN, no Infinity.

    Without ``strict`` these are numbers, for who looks for them to say where they are.
    Raises WireError with a short text that quotes nothing of the data.
    """
    try:
        return _loads(data, parse_constant=_refuse_constant if strict else None)
    except RecursionError:
        raise WireError("JSON is nested too deeply") from None
    except UnicodeDecodeError as e:
        raise WireError(f"not UTF-8 at byte {e.start}") from None
    except json.JSONDecodeError as e:
        raise WireError(f"not JSON: {e.msg} at line {e.lineno} column {e.colno}") from None
    except ValueError as e:
        raise WireError(f"not JSON: {e}"[:200]) from None


def encode_frame(value: Any, limit: int = WORKER_FRAME_MAX) -> bytes:
    """One frame of ``value``. Raises WireError if it would exceed ``limit`` bytes."""
    body = json.dumps(value, separators=(",", ":"), allow_nan=False).encode("ascii")
    if len(body) > limit:
        raise WireError(f"frame of {len(body)} bytes exceeds {limit}")
    return HEADER.pack(len(body)) + body


class FrameReader:
    """Collects bytes and yields whole decoded frames.

    ``feed`` raises WireError at the first bad frame; the stream is unusable afterwards.
    Who does not take all that it yields gets the rest from the next call. ``size`` is of
    the last frame, in bytes.
    """

    def __init__(self, limit: int = WORKER_FRAME_MAX) -> None:
        self._buffer = bytearray()
        self._limit = limit
        self.size = 0

    def feed(self, data: bytes) -> Iterator[Any]:
        self._buffer += data
        while len(self._buffer) >= HEADER.size:
            (size,) = HEADER.unpack_from(self._buffer)
            if size > self._limit:
                raise WireError(f"frame of {size} bytes exceeds {self._limit}")
            end = HEADER.size + size
            if len(self._buffer) < end:
                return
            body = bytes(self._buffer[HEADER.size : end])
            del self._buffer[:end]
            self.size = size
            yield parse_json(body)

    @property
    def pending(self) -> int:
        """Bytes of an unfinished frame."""
        return len(self._buffer)
