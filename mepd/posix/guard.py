"""A guard: a small process that stands between mepd and a tree of processes.

It is the subreaper of the tree (prctl(2)), so that a daemon's double fork cannot leave
it, and it watches a lifeline to mepd: when mepd dies in whatever way, the tree dies.
"""

from __future__ import annotations

import contextlib
import errno
import os
import select
import signal
import socket
from collections.abc import Callable, Sequence

from mepd.posix import orphans, process, rlimits, syscalls

_TURN_MAX = 500
_STOPS = (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT)
_PASSED_OVER = (signal.SIGALRM, signal.SIGUSR2)  # a module's timer is not to end it
FORWARDED = (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT, signal.SIGHUP, signal.SIGUSR1)


class Guard:
    """The guard's own side: make it before the fork of the tree, then :meth:`watch`.

    Signals that come before watch() are kept for it.
    """

    def __init__(self, parent_pid: int) -> None:
        """Become the subreaper, and be woken up (not killed) when the parent dies.

        SIGCONT reaches a stopped guard too; the lifeline then tells it what happened.
        Call after the last change of credentials. Raises ProcessLookupError.
        """
        syscalls.set_subreaper()
        self._wakeup_r, self._wakeup_w = socket.socketpair()
        for end in (self._wakeup_r, self._wakeup_w):
            end.setblocking(False)
        signal.set_wakeup_fd(self._wakeup_w.fileno(), warn_on_full_buffer=False)
        for number in (*FORWARDED, *_PASSED_OVER, signal.SIGCHLD, signal.SIGCONT):
            signal.signal(number, lambda *_: None)
        signal.pthread_sigmask(signal.SIG_SETMASK, ())  # a module may have left some blocked
        process.die_with_parent(parent_pid, signal.SIGCONT)

    def watch(
        self,
        child: int,
        lifeline: socket.socket,
        stop: int = signal.SIGTERM,
        at_end: Callable[[], None] = lambda: None,
    ) -> int:
        """Wait for ``child``, forwarding signals to it, until it ends or the lifeline does.

        ``stop`` is what SIGTERM, SIGINT and SIGQUIT become for the child. Then the whole
        tree is killed and ``at_end`` is called. Returns the child's wait status.
        """
        target = process.identify(child)
        lifeline.setblocking(False)
        status: int | None = None
        try:
            while (status := _wait(child)) is None:
                readable = wait_readable([self._wakeup_r, lifeline])
                if self._wakeup_r in readable:
                    _forward(self._wakeup_r.recv(512), child, stop)
                if lifeline in readable and _ended(lifeline):
                    break
        finally:
            if status is None:
                if target is not None:
                    process.kill_tree(target)
                status = os.waitpid(child, 0)[1]
            orphans.end()
            at_end()
        return status


def wait_readable(
    socks: Sequence[socket.socket], seconds: float | None = None
) -> list[socket.socket]:
    """Those of ``socks`` that can be read, or have ended; none after ``seconds``.

    Whatever their descriptors' numbers: select(2) takes none above 1023. Raises OSError, for
    one that is closed.
    """
    poll = select.poll()
    for sock in socks:
        poll.register(sock, select.POLLIN)
    found = dict(poll.poll(None if seconds is None else seconds * 1000))
    if select.POLLNVAL in found.values():
        raise OSError(errno.EBADF, os.strerror(errno.EBADF))
    return [sock for sock in socks if sock.fileno() in found]


def _wait(child: int) -> int | None:
    """The child's status if it has ended; orphans that came to this process are reaped too.

    Not all of them, where they fork and exit without end: the lifeline is to be looked at.
    """
    for _ in range(_TURN_MAX):
        info = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        if info is None:
            return None
        _, status = os.waitpid(info.si_pid, 0)
        if info.si_pid == child:
            return status
    os.kill(os.getpid(), signal.SIGCHLD)  # the rest in the next turn
    return None


def _forward(numbers: bytes, child: int, stop: int) -> None:
    for number in numbers:
        if number in FORWARDED:
            # A child of ours that is not yet waited for: its pid cannot have been reused.
            with contextlib.suppress(ProcessLookupError):
                os.kill(child, stop if number in _STOPS else number)


def _ended(lifeline: socket.socket) -> bool:
    try:
        return not lifeline.recv(64)
    except BlockingIOError:
        return False
    except OSError:
        return True


def leave_like(status: int) -> int:
    """End as the child did: its exit code, or the same signal (wait(2))."""
    if os.WIFSIGNALED(status):
        number = os.WTERMSIG(status)
        if number not in (signal.SIGKILL, signal.SIGSTOP):
            signal.signal(number, signal.SIG_DFL)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, [number])
        rlimits.no_core_dumps()
        syscalls.set_not_dumpable()  # nor to a program that is given cores (core(5))
        os.kill(os.getpid(), number)
    return os.waitstatus_to_exitcode(status) & 0xFF if os.WIFEXITED(status) else 1
