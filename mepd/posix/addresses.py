"""Where a connection can go at this moment."""

from __future__ import annotations

import errno
import socket
from collections.abc import Callable
from typing import Any


def reachable(found: Any) -> Any:
    """Of a look-up's addresses those for which there is a socket; an OSError if there is none.

    ``found``: of getaddrinfo(3), or why it failed.
    """
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


class NoLookUp:
    """A look-up of a name that has failed already; ``on_done`` is told by :meth:`end`, unless
    it was cancelled."""

    def __init__(self, on_done: Callable[[Any], None], error: OSError) -> None:
        self._on_done: Callable[[Any], None] | None = on_done
        self._error = error

    def end(self) -> None:
        if self._on_done is not None:
            self._on_done(self._error)

    def cancel(self) -> bool:
        self._on_done = None
        return True


def look_up(
    ask: Callable[[Callable[[Any], None]], Any],
    soon: Callable[[Callable[[], None]], Any],
    on_done: Callable[[Any], None],
) -> Any:
    """Have pika's ``ask`` look a name up in a thread, and tell ``on_done`` what of it is
    reachable; where the system has no thread, that it failed, ``soon``."""
    try:
        return ask(lambda found: on_done(reachable(found)))
    except RuntimeError as e:
        failed = NoLookUp(on_done, OSError(errno.EAGAIN, str(e)))
        soon(failed.end)
        return failed
