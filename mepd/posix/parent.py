"""Dying with the parent: apart from the rest, for programs that are started often."""

from __future__ import annotations

import errno
import os
import signal

from mepd.posix import syscalls


def die_with_parent(parent_pid: int, signum: int = signal.SIGKILL) -> None:
    """Have the kernel send ``signum`` when the parent's forking thread ends.

    Call it after the last change of credentials, which clears the setting (prctl(2),
    PR_SET_PDEATHSIG). Raises ProcessLookupError if ``parent_pid`` is not the parent any
    more, since a parent that died before the call would never be noticed.
    """
    syscalls.prctl(syscalls.PR_SET_PDEATHSIG, signum)
    if os.getppid() != parent_pid:
        raise ProcessLookupError(errno.ESRCH, "the parent has gone")
