"""Host authorization by PAM: the session process, root, parent of one UEP.

It opens the session, forks the child that becomes the UEP, waits for its end however it
comes, and closes the session and the credentials.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import setproctitle

from mepd.errors import PamError
from mepd.launch import environment
from mepd.launch.failure import StageError
from mepd.model import Stage
from mepd.posix import guard, orphans, process
from mepd.posix.pam import PamSession

log = logging.getLogger(__name__)

_MODULES_MAX = 1.0
"""How long modules may go on, in seconds, when mepd has died."""
_CLOSING_MAX = 0.4
"""And then to be done with it, once the programs that they run were killed."""


@dataclass(frozen=True)
class Opened:
    """A session, the variables that its modules gave, and the stop signals that came
    meanwhile: :func:`stand_guard` passes them on."""

    session: PamSession
    environment: dict[str, str]
    stops: Sequence[int]


def open_session(service: str, user: str, stops: Sequence[int] = ()) -> Opened:
    """Account phase, credentials, session. Raises StageError (HOST_AUTH), opaque to users.

    With one of ``stops`` it does not return: this process dies of it, the session closed.
    """
    session: PamSession | None = None
    identity = os.getresuid(), os.getresgid()
    loaders: dict[str, str] = {}
    try:
        session = PamSession(service, user)
        for step in (session.check_account, session.establish_credentials, session.open):
            step()
            if (os.getresuid(), os.getresgid()) != identity:
                raise PermissionError(f"a module of {step.__name__} changed the process's ids")
            loaders |= _forget_loaders(session)
            if stops:
                break
        else:
            return Opened(session, {**session.environment(), **loaders}, stops)
    except Exception as e:
        if session is not None:
            session.close()
        text = str(e) if isinstance(e, PamError) else f"({type(e).__name__}) {e}"
        raise StageError(Stage.HOST_AUTH, f"PAM ({service}, {user}): {text}") from None
    session.close()
    guard.leave_like(stops[0])
    raise StageError(Stage.HOST_AUTH, f"PAM ({service}, {user}): told to stop")


def keep_stops() -> list[int]:
    """From here on signals that end a process are noted in this list, and do no more.

    One that ended this process amid a module's work would leave the session open for good.
    """
    stops: list[int] = []
    for number in guard.FORWARDED:
        signal.signal(number, lambda n, _: stops.append(n))
        signal.siginterrupt(number, False)  # modules expect no EINTR
    return stops


def _forget_loaders(session: PamSession) -> dict[str, str]:
    """What modules that run as root from here on must not heed; it is the UEP's alone."""
    found = {n: v for n, v in session.environment().items() if environment.is_loaders(n)}
    for name in found:
        session.forget(name)
    return found


@contextlib.contextmanager
def bounded_without_mepd(lifeline: socket.socket) -> Iterator[None]:
    """Bound what modules take inside, once mepd has died: nobody else would.

    A thread, since a module does not return. It has ended when this is left.
    """
    over, tell = socket.socketpair()
    main = threading.get_ident()

    def watch() -> None:
        with contextlib.suppress(OSError, ValueError):  # a module closed the descriptors
            readable = guard.wait_readable([over, lifeline])
            if over in readable or guard.wait_readable([over], _MODULES_MAX):
                return
            programs = process.freeze(lambda: process.descendants(os.getpid()))
            process.kill_each(programs)
            if not guard.wait_readable([over], _CLOSING_MAX):
                signal.pthread_kill(main, signal.SIGKILL)

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            tell.close()
        thread.join(_MODULES_MAX)
        with contextlib.suppress(OSError):
            over.close()


def stand_guard(
    opened: Opened,
    user: str,
    lifeline: socket.socket,
    child: Callable[[], int],
    forked: Callable[[int], None],
    master_pid: int,
) -> int:
    """Fork ``child``, tell ``forked`` its pid, and stay until it has ended.

    Returns the exit code to leave with, or does not return where the child died of a
    signal: then this process dies of the same, so that its own parent sees it. Whatever
    fails here, nothing of the child's is left and the session is closed.
    """
    session = opened.session
    try:
        watcher = guard.Guard(master_pid)
        for number in opened.stops:
            os.kill(os.getpid(), number)
        pid = process.fork(child)
        forked(pid)
        setproctitle.setproctitle(f"mepd: session {user}")
        status = watcher.watch(pid, lifeline, at_end=session.close)
    except Exception as e:  # out of processes, mepd is gone, or a module closed its descriptors
        orphans.end()
        session.close()
        raise StageError(Stage.PREPARE, f"session process: ({type(e).__name__}) {e}") from None
    return guard.leave_like(status)
