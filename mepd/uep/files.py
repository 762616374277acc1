"""Opening the UEP's own files in the user's home, following no link."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import stat
from pathlib import Path

_SAFE = os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK


def open_regular(path: Path, flags: int) -> int:
    """Open ``path`` as this user's own regular file, mode 0600 if made. Raises OSError."""
    fd = os.open(path, flags | _SAFE, 0o600)
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise OSError(errno.EINVAL, "not a regular file", str(path))
    return fd


def write_all(fd: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


def sync_folder(folder: Path) -> None:
    """Make renames in ``folder`` durable; see fsync(2) on directories."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _place(path: Path, data: bytes, sync: bool) -> int:
    """Put ``data`` at ``path`` in one step; a descriptor for appending to it. Raises OSError."""
    temporary = path.with_name(f".{path.name}.new")
    with contextlib.suppress(FileNotFoundError):  # an earlier life's, a link, a FIFO
        os.unlink(temporary)
    fd = open_regular(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_APPEND)
    try:
        write_all(fd, data)
        if sync:
            os.fsync(fd)
        os.rename(temporary, path)
    except OSError:
        os.close(fd)
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise
    return fd


def renew(path: Path, data: bytes) -> int:
    """Put ``data`` at ``path`` in one step; a descriptor for appending to it. Raises OSError.

    The data are durable on return, and their name is once sync_folder() has returned.
    """
    return _place(path, data, sync=True)


def replace(path: Path, data: bytes) -> None:
    """Put ``data`` at ``path`` in one step, durable on return. Raises OSError."""
    os.close(renew(path, data))
    sync_folder(path.parent)


def put(path: Path, data: bytes) -> None:
    """Put ``data`` at ``path`` in one step; a crash of the machine may undo it. Raises OSError."""
    os.close(_place(path, data, sync=False))


def lock(path: Path) -> int | None:
    """Hold ``path`` for this process's life; None if another process holds it.

    The descriptor is close-on-exec, so that no worker keeps a dead UEP's lock.
    """
    fd = open_regular(path, os.O_RDWR | os.O_CREAT)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(fd)
        return None
    except OSError as e:
        if e.errno not in (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS):
            os.close(fd)
            raise
    return fd
