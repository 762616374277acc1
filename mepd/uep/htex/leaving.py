"""How a pool that is told to end takes its leave of Parsl's interchange."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable

from mepd.uep.htex.slot import SlotTask

LOOK_EVERY = 0.05


def take_leave(
    drain: Callable[[], None],
    held: Callable[[], Iterable[SlotTask]],
    lost: Callable[[SlotTask], None],
    heard: threading.Event,
    patience: float,
) -> bool:
    """Ask for no more tasks, and tell of those that are lost until the interchange says the end.

    It does so when it had word of each task that it sent: also of one that was on its way
    here, or that waited for another's nodes. ``held`` returns what is here now; ``patience``
    is in seconds. Returns whether ``heard`` was set.
    """
    drain()
    told: set[int] = set()
    over = time.monotonic() + patience
    while True:
        for task in held():
            if task.number not in told:
                told.add(task.number)
                lost(task)
        if heard.wait(LOOK_EVERY):
            return True
        if time.monotonic() >= over:
            return False
