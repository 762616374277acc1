"""Who is in a group, without asking a directory server: that could stall the caller."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

GROUP = Path("/etc/group")
PASSWD = Path("/etc/passwd")

_Fields = list[list[str]]


class _File:
    """The lines of passwd(5) or group(5) as fields, anew whenever the file has changed."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._seen: tuple[int, int, int] | None = None

    def changed(self) -> _Fields | None:
        """None if it is as it was; nothing if it cannot be read."""
        try:
            info = os.stat(self._path)
            seen = (info.st_ino, info.st_mtime_ns, info.st_size)
            if seen == self._seen:
                return None
            text = self._path.read_text("utf-8", "replace")
        except OSError:
            self._seen = None
            return []
        self._seen = seen
        return [line.split(":") for line in text.splitlines()]


def _by_number(lines: Iterable[list[str]]) -> dict[int, _Fields]:
    """Lines by their third field: a uid, or a gid."""
    found: dict[int, _Fields] = defaultdict(list)
    for fields in lines:
        if len(fields) > 3 and fields[2].isascii() and fields[2].isdigit():
            found[int(fields[2])].append(fields)
    return dict(found)


class LocalGroups:
    """Membership as the system's own files say now."""

    def __init__(self, group: Path = GROUP, passwd: Path = PASSWD) -> None:
        self._group, self._passwd = _File(group), _File(passwd)
        self._groups: dict[int, _Fields] = {}
        self._accounts: dict[int, _Fields] = {}

    def has(self, uid: int, gid: int) -> bool:
        """Whether an account with ``uid`` is a member of ``gid``, primary or supplementary."""
        groups, accounts = self._group.changed(), self._passwd.changed()
        if groups is not None:
            self._groups = _by_number(groups)
        if accounts is not None:
            self._accounts = _by_number(accounts)
        mine = self._accounts.get(uid, [])
        names = {fields[0] for fields in mine}
        return any(fields[3] == str(gid) for fields in mine) or any(
            names & set(fields[3].split(",")) for fields in self._groups.get(gid, [])
        )
