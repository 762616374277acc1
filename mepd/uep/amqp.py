"""The one import of pika."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from pika import BasicProperties, SelectConnection, URLParameters, data
from pika.adapters.select_connection import IOLoop
from pika.adapters.utils.selector_ioloop_adapter import SelectorIOServicesAdapter
from pika.channel import Channel
from pika.exceptions import (
    AMQPConnectionError,
    AMQPError,
    ProbableAccessDeniedError,
    ProbableAuthenticationError,
)

from mepd.posix.addresses import look_up
from mepd.wire import headertables

headertables.harden(data)


class _Services(SelectorIOServicesAdapter):  # type: ignore[misc]
    """pika looks names up in a thread, and then opens a socket. Where the system has no thread
    or no descriptor for this user, that is to be a name that cannot be found; pika would have
    it end the loop."""

    def getaddrinfo(
        self, host: Any, port: Any, on_done: Callable[[Any], None], *args: Any, **kwargs: Any
    ) -> Any:
        ask = functools.partial(super().getaddrinfo, host, port)
        return look_up(
            lambda done: ask(done, *args, **kwargs), self.add_callback_threadsafe, on_done
        )


class Connection(SelectConnection):  # type: ignore[misc]
    """Sends all frames of one turn of the loop in one piece; pika makes a system call of each.

    Should a later pika not call this method, it sends as it sees fit.
    """

    def __init__(self, *args: Any, custom_ioloop: IOLoop, **kwargs: Any) -> None:
        self._turn: list[bytes] = []
        super().__init__(*args, custom_ioloop=_Services(custom_ioloop), **kwargs)

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
