"""Processor time and memory of whole process trees, from one pass over /proc.

mepctl measures, as who calls it: the master would stand still for as long as that takes.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import psutil

Root = tuple[int, float]
"""A process for certain: its pid and its creation time, seconds since 1970."""


@dataclass(frozen=True)
class TreeUse:
    """``seconds`` of processor time, ``age`` of the root in seconds, ``rss`` in bytes."""

    seconds: float
    age: float
    rss: int

    def cpu(self, since: TreeUse | None = None) -> float:
        """Percent of one processor since the start, as ps(1), or since an earlier look."""
        seconds = self.seconds - (since.seconds if since else 0.0)
        age = self.age - (since.age if since else 0.0)
        return round(100 * max(0.0, seconds) / max(1.0 if since is None else 0.1, age), 1)


@dataclass(frozen=True)
class _Row:
    parent: int
    seconds: float
    rss: int
    created: float


def _scan() -> dict[int, _Row]:
    rows = {}
    for p in psutil.process_iter(["ppid", "cpu_times", "memory_info", "create_time"]):
        info = p.info
        if info["cpu_times"] is None or info["memory_info"] is None:
            continue
        seconds = info["cpu_times"].user + info["cpu_times"].system
        rows[p.pid] = _Row(info["ppid"], seconds, info["memory_info"].rss, info["create_time"])
    return rows


def measure(roots: Iterable[Root]) -> dict[int, TreeUse]:
    """The use of each root's tree by its pid; one that is gone, or hidden, is left out."""
    rows = _scan()
    children: dict[int, list[int]] = {}
    for pid, row in rows.items():
        children.setdefault(row.parent, []).append(pid)
    out = {}
    for root, created in roots:
        if root not in rows or not _same(rows[root].created, created):
            continue
        todo, seconds, rss = [root], 0.0, 0
        while todo:
            pid = todo.pop()
            seconds += rows[pid].seconds
            rss += rows[pid].rss
            todo.extend(children.get(pid, ()))
        out[root] = TreeUse(seconds, time.time() - created, rss)
    return out


def _same(one: float, other: float) -> bool:
    """Creation times in whole seconds since the epoch differ where the clock is adjusted."""
    return abs(one - other) < 2.0


def tree(root: Root) -> list[dict[str, Any]]:
    """Each process of a tree, parents first; empty if it is gone or hidden."""
    try:
        top = psutil.Process(root[0])
        if not _same(top.create_time(), root[1]):
            return []
        family = [top, *top.children(recursive=True)]
    except psutil.Error:
        return []
    found = []
    for p in family:
        with contextlib.suppress(psutil.Error):
            found.append(_process(p))
    return found


def _process(p: psutil.Process) -> dict[str, Any]:
    with p.oneshot():
        times = p.cpu_times()
        return {
            "pid": p.pid,
            "ppid": p.ppid(),
            "state": p.status(),
            "threads": p.num_threads(),
            "cpu_seconds": round(times.user + times.system, 2),
            "rss": p.memory_info().rss,
            "command": " ".join(p.cmdline())[:200] or p.name(),
        }
