"""The one import of pika."""

from __future__ import annotations

import errno
import socket
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

from mepd.wire import headertables

headertables.harden(data)


class _NoLookUp:
    """A look-up of a name that has failed already; ``on_done`` is soon told."""

    def __init__(self, on_done: Callable[[Any], None], error: OSError) -> None:
        self._on_done: Callable[[Any], None] | None = on_done
        self._error = error

    def end(self) -> None:
        if self._on_done is not None:
            self._on_done(self._error)

    def cancel(self) -> bool:
        self._on_done = None
        return True


def reachable(found: Any) -> Any:
    """Of a look-up's addresses those for which there is a socket; an OSError if there is none."""
    if isinstance(found, BaseException):
        return found
    good, error = [], OSError(errno.EADDRNOTAVAIL, "the name has no address")
    for record in found:
        try:
            socket.socket(*record[:3]).close()
            good.append(record)
        except OSError as e:
            error = e
    return good or error


class _Services(SelectorIOServicesAdapter):  # type: ignore[misc]
    """pika looks names up in a thread, and then opens a socket. Where the system has no thread
    or no descriptor for this user, that is to be a name that cannot be found; pika would have
    it end the loop."""

    def getaddrinfo(
        self, host: Any, port: Any, on_done: Callable[[Any], None], *args: Any, **kwargs: Any
    ) -> Any:
        def done(found: Any) -> None:
            on_done(reachable(found))

        try:
            return super().getaddrinfo(host, port, done, *args, **kwargs)
        except RuntimeError as e:
            failed = _NoLookUp(on_done, OSError(errno.EAGAIN, str(e)))
            self.add_callback_threadsafe(failed.end)
            return failed


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
