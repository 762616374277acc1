"""The one import of pika."""

from __future__ import annotations

from typing import Any

from pika import BasicProperties, SelectConnection, URLParameters, data
from pika.adapters.select_connection import IOLoop
from pika.channel import Channel
from pika.exceptions import (
    AMQPConnectionError,
    AMQPError,
    ProbableAccessDeniedError,
    ProbableAuthenticationError,
)

from mepd.wire import headertables

headertables.harden(data)


class Connection(SelectConnection):  # type: ignore[misc]
    """Sends all frames of one turn of the loop in one piece; pika makes a system call of each.

    Should a later pika not call this method, it sends as it sees fit.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._turn: list[bytes] = []
        super().__init__(*args, **kwargs)

    def _output_marshaled_frames(self, marshaled_frames: list[bytes]) -> None:
        if not self._turn:
            self.ioloop.call_later(0, self._end_turn)
        self._turn += marshaled_frames

    def _end_turn(self) -> None:
        frames, self._turn = self._turn, []
        if not self.is_closed:
            super()._output_marshaled_frames([b"".join(frames)])


__all__ = [
    "AMQPConnectionError",
    "AMQPError",
    "BasicProperties",
    "Channel",
    "Connection",
    "IOLoop",
    "ProbableAccessDeniedError",
    "ProbableAuthenticationError",
    "URLParameters",
]
