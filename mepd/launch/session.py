"""Host authorization by PAM: the session process, root, parent of one UEP.

It opens the session, forks the child that becomes the UEP, waits for its end however it
comes, and closes the session and the credentials.
"""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Callable

import setproctitle

from mepd.errors import PamError
from mepd.launch.failure import StageError
from mepd.model import Stage
from mepd.posix import guard, process
from mepd.posix.pam import PamSession

log = logging.getLogger(__name__)


def open_session(service: str, user: str) -> PamSession:
    """Account phase, credentials, session. Raises StageError (HOST_AUTH), opaque to users."""
    session: PamSession | None = None
    identity = os.getresuid(), os.getresgid()
    try:
        session = PamSession(service, user)
        for step in (session.check_account, session.establish_credentials, session.open):
            step()
            if (os.getresuid(), os.getresgid()) != identity:
                raise PermissionError(f"a module of {step.__name__} changed the process's ids")
        return session
    except Exception as e:
        if session is not None:
            session.close()
        text = str(e) if isinstance(e, PamError) else f"({type(e).__name__}) {e}"
        raise StageError(Stage.HOST_AUTH, f"PAM ({service}, {user}): {text}") from None


def stand_guard(
    session: PamSession,
    user: str,
    lifeline: socket.socket,
    child: Callable[[], int],
    forked: Callable[[int], None],
    master_pid: int,
) -> int:
    """Fork ``child``, tell ``forked`` its pid, and stay until it has ended.

    Returns the exit code to leave with, or does not return where the child died of a
    signal: then this process dies of the same, so that its own parent sees it.
    """
    try:
        watcher = guard.Guard(master_pid)
        pid = process.fork(child)
        forked(pid)
    except OSError as e:  # out of processes, mepd is gone, or a module closed its descriptors
        guard.sweep()
        session.close()
        raise StageError(Stage.PREPARE, f"session process: ({type(e).__name__}) {e}") from None
    setproctitle.setproctitle(f"mepd: session {user}")
    status = watcher.watch(pid, lifeline, at_end=session.close)
    return guard.leave_like(status)
