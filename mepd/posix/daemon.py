"""Becoming a daemon, and being the only one (daemon(7))."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from mepd.posix import descriptors


class AlreadyRunning(Exception):
    """Another process holds the pidfile's lock."""


def lock_pidfile(path: Path) -> int:
    """Take the pidfile: locked for the life of the process, holding its pid.

    A file left by a dead process is taken over. Nobody else may open it: whoever can read
    a file can lock it. Returns the descriptor, which must stay open. Raises AlreadyRunning
    or OSError.
    """
    while True:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        os.fchmod(fd, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            other = os.read(fd, 32).decode("ascii", "replace").strip()
            os.close(fd)
            raise AlreadyRunning(other or "unknown") from None
        if _is_at(fd, path):
            write_pid(fd)
            return fd
        os.close(fd)  # one that ended removed it after it was opened here


def _is_at(fd: int, path: Path) -> bool:
    """Whether ``path`` still leads to the open file: a lock on another keeps nobody out."""
    try:
        return os.path.samestat(os.fstat(fd), os.stat(path))
    except FileNotFoundError:
        return False


def write_pid(fd: int) -> None:
    os.ftruncate(fd, 0)
    os.pwrite(fd, f"{os.getpid()}\n".encode(), 0)


class Readiness:
    """Lets the process that was started wait until the daemon is ready or has failed."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def tell(self, code: int, message: str = "") -> None:
        """The daemon's word: 0 for ready, else the exit code that the starter leaves with.

        The starter shows ``message`` on its stderr.
        """
        if self._fd >= 0:
            os.write(self._fd, bytes([code & 0xFF]) + message.encode("utf-8", "replace")[:4000])
            os.close(self._fd)
            self._fd = -1


def daemonize() -> Readiness:
    """Double fork into a session of its own; returns in the daemon only. Raises OSError.

    The process that was started stays until the daemon tells its readiness, and leaves
    with that code (70 if the daemon died without a word).
    """
    reader, writer = os.pipe2(os.O_CLOEXEC)
    if os.fork():
        os.close(writer)
        word = os.read(reader, 4096)  # one write, smaller than PIPE_BUF: it comes whole
        os.write(2, word[1:])
        os._exit(word[0] if word else os.EX_SOFTWARE)
    os.close(reader)
    ready = Readiness(writer)
    os.setsid()
    try:
        if os.fork():
            os._exit(0)
    except OSError as e:
        ready.tell(os.EX_OSERR, f"mepd: cannot fork: {e.strerror}\n")
        os._exit(os.EX_OSERR)
    os.chdir("/")
    os.umask(0o022)
    descriptors.null_stdio()
    return ready
