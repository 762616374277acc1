"""Descriptors: which ones a child keeps, sealed memory files, opening without surprises."""

from __future__ import annotations

import contextlib
import fcntl
import os
import stat
import sys
from collections.abc import Iterable, Iterator

_SEALS = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE
_SPARE = 2
_spare: list[int] = []


def keep_spare() -> None:
    """Put descriptors aside for :func:`spare`. Raises OSError."""
    while len(_spare) < _SPARE:
        _spare.append(os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC))


def forget_spare() -> None:
    """In a forked child, where their numbers will be others'."""
    _spare.clear()


@contextlib.contextmanager
def spare() -> Iterator[None]:
    """What runs inside can open two, also in a process that has no descriptor left.

    Nothing may stay open of them. Without :func:`keep_spare` it does nothing.
    """
    freed = bool(_spare)
    while _spare:
        os.close(_spare.pop())
    try:
        yield
    finally:
        if freed:
            with contextlib.suppress(OSError):
                keep_spare()


def open_descriptors() -> list[int]:
    """The descriptors that this process has open."""
    return sorted(fd for fd in map(int, os.listdir("/proc/self/fd")) if _is_open(fd))


def _is_open(fd: int) -> bool:
    """The listing names its own descriptor, too, which is closed by now."""
    try:
        os.fstat(fd)
    except OSError:
        return False
    return True


def close_all_but(keep: Iterable[int]) -> None:
    """Close every descriptor that is not in ``keep``; closed by number, without destructors."""
    previous = -1
    for fd in sorted({*keep, max(open_descriptors()) + 1}):
        # Not for an empty range: os.closerange(0, 0) closes everything in some Pythons.
        if fd > previous + 1:
            os.closerange(previous + 1, fd)
        previous = fd


def null_stdio(which: Iterable[int] = (0, 1, 2)) -> None:
    """Put /dev/null on the standard descriptors in ``which``."""
    null = os.open(os.devnull, os.O_RDWR)
    try:
        for fd in which:
            os.dup2(null, fd)
    finally:
        if null not in which:
            os.close(null)


def standard_streams() -> None:
    """/dev/null for each of descriptors 0 to 2 that is closed, and Python's streams for them.

    What is opened next would else take their numbers, and get what is meant for a terminal.
    """
    for fd, name in enumerate(("stdin", "stdout", "stderr")):
        if not _is_open(fd):
            os.open(os.devnull, os.O_RDWR)  # the lowest number that is free
        if getattr(sys, name) is None:
            setattr(sys, name, open(fd, "w" if fd else "r", closefd=False))


def memory_file(name: str) -> int:
    """An empty, sealable, close-on-exec memory file (memfd_create(2)). Raises OSError."""
    return os.memfd_create(name, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)


def one_way_file(name: str) -> tuple[int, int]:
    """A memory file by two close-on-exec descriptors: one to write, one to read. Raises OSError.

    Whoever inherits the second only cannot open the first again, unless they own the file.
    """
    writing = os.memfd_create(name, os.MFD_CLOEXEC)
    try:
        os.fchmod(writing, 0o600)
        return writing, os.open(f"/proc/self/fd/{writing}", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        os.close(writing)
        raise


def rewrite(fd: int, data: bytes) -> None:
    """Have ``data`` be all that a file holds, never empty meanwhile. Raises OSError.

    Of two that write as much at once, one is heard.
    """
    view, at = memoryview(data), 0
    while at < len(view):
        at += os.pwrite(fd, view[at:], at)
    if os.fstat(fd).st_size != len(data):
        os.ftruncate(fd, len(data))


def fill_and_seal(fd: int, data: bytes) -> None:
    """Write ``data`` to a memory file, forbid any change, and rewind it. Raises OSError."""
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]
    fcntl.fcntl(fd, fcntl.F_ADD_SEALS, _SEALS)
    os.lseek(fd, 0, os.SEEK_SET)


def place(wanted: dict[int, int]) -> None:
    """Make each source descriptor appear, inheritable, at its target number.

    ``wanted`` maps target to source. Sources are moved out of the way first, so that the
    order cannot matter. Raises OSError.
    """
    floor = max(wanted, default=0) + 1
    moved = {t: fcntl.fcntl(s, fcntl.F_DUPFD_CLOEXEC, floor) for t, s in wanted.items()}
    for target, source in moved.items():
        os.dup2(source, target, inheritable=True)
        os.close(source)


def open_log(path: str, mode: int = 0o600) -> int:
    """Open a log for appending as the caller: a regular file with one link, or an error.

    Never follows a link, never blocks on a FIFO. Raises OSError; PermissionError when the
    path is something else than a plain file of the caller's.
    """
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    fd = os.open(path, flags, mode)
    info = os.fstat(fd)
    if not stat.S_ISREG(info.st_mode) or info.st_nlink != 1 or info.st_uid != os.geteuid():
        os.close(fd)
        raise PermissionError(f"not a plain file of its own: {path}")
    os.set_blocking(fd, True)
    return fd
