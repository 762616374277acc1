"""Opening the UEP's own files in the user's home, following no link."""

from __future__ import annotations

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


def replace(path: Path, data: bytes) -> None:
    """Put ``data`` at ``path`` in one step, durable on return. Raises OSError."""
    temporary = path.with_name(f".{path.name}.new")
    fd = open_regular(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    try:
        write_all(fd, data)
        os.fsync(fd)
    finally:
        os.close(fd)
    os.rename(temporary, path)
    sync_folder(path.parent)


def put(path: Path, data: bytes) -> None:
    """Put ``data`` at ``path`` in one step; a crash of the machine may undo it. Raises OSError."""
    temporary = path.with_name(f".{path.name}.new")
    fd = open_regular(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    try:
        write_all(fd, data)
    finally:
        os.close(fd)
    os.rename(temporary, path)


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
