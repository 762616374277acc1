"""How long one task may run: GC_TASK_TIMEOUT seconds, as globus-compute-endpoint has it."""

from __future__ import annotations

import contextlib
import math
import os
import signal
import threading
from collections.abc import Iterator

from mepd.posix import threads

VARIABLE = "GC_TASK_TIMEOUT"


class TaskTimeout(Exception):
    """A task took longer than it may."""

    def __str__(self) -> str:
        return f"the task took longer than {VARIABLE} ({os.environ.get(VARIABLE)} s)"


def configured() -> float:
    """Seconds; 0 for no limit. Raises ValueError for what is no number."""
    text = os.environ.get(VARIABLE, "0")
    try:
        seconds = float(text or 0)
    except ValueError:
        seconds = math.nan
    if not math.isfinite(seconds):
        raise ValueError(f"{VARIABLE}: needs a number of seconds, not {text[:40]!r}")
    return max(0.0, seconds)


@contextlib.contextmanager
def limit(seconds: float) -> Iterator[None]:
    """Raise TaskTimeout in the block once ``seconds`` are over; 0 for no limit.

    The main thread is interrupted at once, in a sleep too; another one when it next runs
    Python code.
    """
    if not seconds:
        yield
    elif threading.current_thread() is threading.main_thread():
        with _alarm(seconds):
            yield
    else:
        with _timer(seconds):
            yield


@contextlib.contextmanager
def _alarm(seconds: float) -> Iterator[None]:
    def expired(*_: object) -> None:
        raise TaskTimeout

    before = signal.signal(signal.SIGALRM, expired)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@contextlib.contextmanager
def _timer(seconds: float) -> Iterator[None]:
    ident, lock, over = threading.get_ident(), threading.Lock(), False

    def expired() -> None:
        with lock:
            if not over:
                threads.raise_in(ident, TaskTimeout)

    timer = threading.Timer(seconds, expired)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        with lock:
            over = True
            threads.raise_in(ident, None)  # one that came too late
        timer.cancel()
