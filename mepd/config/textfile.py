"""Reading a small text file as root, whatever it may turn out to be."""

from __future__ import annotations

import hashlib
import os
import re
import stat
from pathlib import Path

from mepd.errors import ConfigError

FILE_MAX = 1024 * 1024
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0e-\x1f\x7f]")


def read_text(path: Path) -> str | None:
    """The text of a regular file of at most 1 MiB of UTF-8; None if there is no file.

    A link that leads nowhere is no missing file: a schema that was not found for a moment
    would let everything pass. A byte order mark at the beginning is no part of the text.

    Never blocks on a FIFO and opens no device for writing. Raises ConfigError or OSError.
    """
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    except FileNotFoundError:
        if path.is_symlink():
            raise ConfigError("is a link to a file that does not exist", str(path)) from None
        return None
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)  # a folder cannot be made a file object, not even to be closed
        raise ConfigError("is no regular file", str(path))
    try:
        with os.fdopen(fd, "rb") as f:
            data = f.read(FILE_MAX + 1) or b""  # a file of the kernel's may have none yet
    except OSError as e:
        raise OSError(e.errno, e.strerror, str(path)) from None
    if len(data) > FILE_MAX:
        raise ConfigError(f"larger than {FILE_MAX} bytes", str(path))
    try:
        text = data.decode("utf-8-sig")  # Windows' editors begin with a mark
    except UnicodeDecodeError as e:
        raise ConfigError("not UTF-8", str(path), data[: e.start].count(b"\n") + 1) from None
    control = _CONTROL.search(text)
    if control:
        line = text.count("\n", 0, control.start()) + 1
        raise ConfigError(f"a control character ({control[0]!r})", str(path), line)
    return text


def is_path(text: str) -> bool:
    """Whether the system can take ``text`` for a path or a word of a command."""
    return "\0" not in text and text.encode("utf-8", "ignore").decode() == text


def version_of(text: str) -> str:
    """A short name of a file's content: the beginning of what sha256sum(1) prints."""
    return hashlib.sha256(text.encode()).hexdigest()[:12]
