"""Processor time and memory of whole process trees, from one pass over /proc."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass

import psutil


@dataclass(frozen=True)
class TreeUse:
    """``cpu`` in percent of one processor since the start, as ps(1); ``rss`` in bytes."""

    cpu: float
    rss: int


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


def measure(roots: Iterable[int]) -> dict[int, TreeUse]:
    """The use of each root's tree; a root that is gone is left out."""
    rows = _scan()
    children: dict[int, list[int]] = {}
    for pid, row in rows.items():
        children.setdefault(row.parent, []).append(pid)
    out = {}
    for root in roots:
        if root not in rows:
            continue
        todo, seconds, rss = [root], 0.0, 0
        while todo:
            pid = todo.pop()
            seconds += rows[pid].seconds
            rss += rows[pid].rss
            todo.extend(children.get(pid, ()))
        age = max(1.0, time.time() - rows[root].created)
        out[root] = TreeUse(round(100 * seconds / age, 1), rss)
    return out
