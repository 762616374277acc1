"""Bounds on time and memory for what evaluates an administrator's or a user's text."""

from __future__ import annotations

import contextlib
import resource
import signal
from collections.abc import Iterator

MEMORY = 192 * 1024 * 1024
"""Beside what the process has already: together they stay below 256 MB."""
_GRACE = 0.4


class _TimeUp(BaseException):
    """No Exception: Jinja takes any of those in a constant expression for "no constant"."""


@contextlib.contextmanager
def bounded(seconds: float, what: str) -> Iterator[None]:
    """Bound the time and memory of what runs inside; TimeoutError or MemoryError beyond.

    ``seconds`` are of the processor's time: a busy machine is not the text's fault, and
    start_timeout bounds the whole start. The timer interrupts a regular expression, too:
    the re module looks for signals. What never does, such as a search in a long string,
    ends the process by SIGVTALRM shortly after.
    """

    def expire(*_: object) -> None:
        signal.setitimer(signal.ITIMER_VIRTUAL, 2 * _GRACE)  # the way out takes time, too
        raise _TimeUp

    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    with open("/proc/self/statm") as f:
        used = int(f.read().split()[0]) * resource.getpagesize()
    limit = used + MEMORY if hard == resource.RLIM_INFINITY else min(used + MEMORY, hard)
    signal.signal(signal.SIGPROF, expire)
    signal.signal(signal.SIGVTALRM, signal.SIG_DFL)
    resource.setrlimit(resource.RLIMIT_AS, (limit, hard))
    signal.setitimer(signal.ITIMER_PROF, seconds)
    signal.setitimer(signal.ITIMER_VIRTUAL, seconds + _GRACE)
    try:
        try:
            yield
        finally:
            signal.setitimer(signal.ITIMER_PROF, 0)
    except _TimeUp:
        raise TimeoutError(f"{what} took longer than {seconds:g} s") from None
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGPROF, signal.SIG_DFL)
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
