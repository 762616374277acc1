"""The one import of pika."""

from __future__ import annotations

from pika import BasicProperties, SelectConnection, URLParameters
from pika.adapters.select_connection import IOLoop
from pika.channel import Channel
from pika.exceptions import (
    AMQPConnectionError,
    AMQPError,
    ProbableAccessDeniedError,
    ProbableAuthenticationError,
)


class Connection(SelectConnection):  # type: ignore[misc]
    """Sends the frames of one message in one piece; pika makes a system call of each.

    Should a later pika not call this method, it sends as it sees fit.
    """

    def _output_marshaled_frames(self, marshaled_frames: list[bytes]) -> None:
        super()._output_marshaled_frames([b"".join(marshaled_frames)])


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
