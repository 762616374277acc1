"""Bounds of time and memory around the parsing of files that may be bombs."""

from __future__ import annotations

import contextlib
import faulthandler
import resource
import signal
from collections.abc import Iterator
from typing import Any

MEMORY_MAX = 512 * 1024 * 1024
SECONDS_MAX = 5.0


class TimeUp(BaseException):
    """No Exception, so that no library takes it for an error of its own."""


def limit_memory() -> None:
    """RLIMIT_AS for the rest of this process, unless it is lower already."""
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    if hard == resource.RLIM_INFINITY or hard > MEMORY_MAX:
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY_MAX, MEMORY_MAX))


def _time_up(*_: Any) -> None:
    raise TimeUp


@contextlib.contextmanager
def time_limit(seconds: float = SECONDS_MAX) -> Iterator[None]:
    """Raise TimeUp in the main thread when the block takes longer.

    A block that is stuck where Python takes no signals ends the process, with a trace on
    stderr, after twice that time.
    """
    signal.signal(signal.SIGALRM, _time_up)
    faulthandler.dump_traceback_later(2 * seconds, exit=True)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        faulthandler.cancel_dump_traceback_later()
