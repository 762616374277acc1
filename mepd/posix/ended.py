"""Whether a child has ended; light, for it goes to the nodes of a cluster, too."""

from __future__ import annotations

import os

_LOOK = os.WEXITED | os.WNOHANG | os.WNOWAIT


def has_ended(pid: int) -> bool:
    """Whether this child waits to be reaped, which keeps its pid, and so its group's, its own.

    False for one that has been reaped, or is none. See waitid(2).
    """
    try:
        return os.waitid(os.P_PID, pid, _LOOK) is not None
    except ChildProcessError:
        return False
