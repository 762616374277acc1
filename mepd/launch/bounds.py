"""Bounds on time and memory for what evaluates an administrator's or a user's text."""

from __future__ import annotations

import contextlib
import resource
import signal
from collections.abc import Iterator

MEMORY = 256 * 1024 * 1024


@contextlib.contextmanager
def bounded(seconds: float, what: str) -> Iterator[None]:
    """Bound the time and memory of what runs inside; TimeoutError or MemoryError beyond.

    The timer interrupts a regular expression, too: the re module looks for signals.
    """

    def expire(*_: object) -> None:
        raise TimeoutError(f"{what} took longer than {seconds:g} s")

    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    with open("/proc/self/statm") as f:
        used = int(f.read().split()[0]) * resource.getpagesize()
    limit = used + MEMORY if hard == resource.RLIM_INFINITY else min(used + MEMORY, hard)
    signal.signal(signal.SIGALRM, expire)
    resource.setrlimit(resource.RLIMIT_AS, (limit, hard))
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
