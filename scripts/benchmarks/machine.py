"""On what was measured, and when, in a line."""

from __future__ import annotations

import datetime
import os
import platform

import psutil


def description() -> str:
    """To be asked for before the rows: with how loaded the machine was until then."""
    system = platform.freedesktop_os_release().get("PRETTY_NAME", platform.system())
    parts = (
        datetime.date.today().isoformat(),
        system,
        f"Linux {platform.release()}",
        f"{len(os.sched_getaffinity(0))} cores",
        f"{psutil.virtual_memory().total / 2**30:.0f} GiB",
        f"Python {platform.python_version()}",
        f"load {os.getloadavg()[0]:.1f}",
    )
    return ", ".join(parts)
