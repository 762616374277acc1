"""Ending the orphans that a subreaper is given (prctl(2), PR_SET_CHILD_SUBREAPER).

One that forks and exits without end is another process at each look. So children are stopped
by their pids before anything else is looked at, and the dead among them are waited for at
each look: they would be more each time, and to pass them over would take longer, until the
system has no pid left.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Collection

from mepd.posix import process

_LOOKS_MAX = 50


def reap(pid: int) -> bool:
    """Wait for a child that nobody else waits for, if it has ended; whether it had."""
    try:
        return os.waitpid(pid, os.WNOHANG)[0] == pid
    except ChildProcessError:
        return True  # somebody else did


def living(known: Collection[int], dead: Callable[[], None] = lambda: None) -> list[int]:
    """The children of this process that live and are not ``known``.

    Those that have ended are waited for, and ``dead`` is called for each. What it had forked
    is the child of this process by then, so where nobody lives it is looked for.
    """
    for _ in range(_LOOKS_MAX):
        mine = [pid for pid in process.children() if pid not in known]
        found = [pid for pid in mine if not reap(pid)]
        for _ in range(len(mine) - len(found)):
            dead()
        if found or not mine:
            return found
    return []


def freeze(find: Callable[[], list[int]]) -> list[process.ProcessId]:
    """SIGSTOP the children of this process that ``find`` names, and all below them.

    ``find`` is asked again until it names nobody new.
    """
    if not process.stop_each_new(find, process.stop_child):
        return []
    return process.freeze(lambda: process.trees(find()))


def end(known: Collection[int] = (), patience: float = 5.0) -> None:
    """Kill and reap the children that are not ``known``, and all below them.

    Gives up after ``patience`` seconds: what cannot be killed holds nobody (ps(1), state D).
    """
    end_all(lambda: living(known), patience)


def end_all(find: Callable[[], list[int]], patience: float) -> None:
    """:func:`end` for the children that ``find`` names, a form of :func:`living`."""
    deadline = time.monotonic() + patience
    while time.monotonic() < deadline:
        process.kill_each(freeze(find))
        if not find():
            return
        time.sleep(0.005)
