"""Who is in a group, without asking a directory server: that could stall the caller."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

GROUP = Path("/etc/group")
PASSWD = Path("/etc/passwd")


class LocalFile:
    """The fields of each line of passwd(5) or group(5), read again when the file changes."""

    def __init__(self, path: Path, read: Callable[[Path], str] = Path.read_text) -> None:
        self._path = path
        self._read = read
        self._seen: tuple[int, int, int] | None = None
        self._lines: list[list[str]] = []

    def lines(self) -> list[list[str]]:
        """Empty if the file cannot be read."""
        try:
            info = os.stat(self._path)
            seen = (info.st_ino, info.st_mtime_ns, info.st_size)
            if seen != self._seen:
                text = self._read(self._path)
                self._lines = [line.split(":") for line in text.splitlines()]
                self._seen = seen
        except (OSError, UnicodeDecodeError):
            self._lines, self._seen = [], None
        return self._lines


class LocalGroups:
    """Membership as the system's own files say now."""

    def __init__(self, group: Path = GROUP, passwd: Path = PASSWD) -> None:
        self._group = LocalFile(group)
        self._passwd = LocalFile(passwd)

    def has(self, uid: int, gid: int) -> bool:
        """Whether an account with ``uid`` is a member of ``gid``, primary or supplementary."""
        accounts = [f for f in self._passwd.lines() if len(f) > 3 and f[2] == str(uid)]
        if any(fields[3] == str(gid) for fields in accounts):
            return True
        names = {fields[0] for fields in accounts}
        return any(
            names & set(fields[3].split(","))
            for fields in self._group.lines()
            if len(fields) > 3 and fields[2] == str(gid)
        )
