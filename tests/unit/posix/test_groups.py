"""Membership by the system's own files."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from mepd.posix.groups import LocalGroups


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    group, passwd = tmp_path / "group", tmp_path / "passwd"
    group.write_text("root:x:0:\nadm:x:50:harper,jessie\nempty:x:51:\nbroken\n")
    passwd.write_text("harper:x:1000:100::/h:/bin/sh\nkim:x:1001:50::/k:/bin/sh\n+::::::\n")
    return group, passwd


@pytest.mark.parametrize(
    ("uid", "gid", "member"),
    [(1000, 50, True), (1001, 50, True), (1000, 51, False), (1000, 100, True),
     (1002, 50, False), (100, 50, False), (1000, 0, False)],
)  # fmt: skip
def test_c1_members(files: tuple[Path, Path], uid: int, gid: int, member: bool) -> None:
    assert LocalGroups(*files).has(uid, gid) is member


def test_c1_changes_count_at_once(files: tuple[Path, Path]) -> None:
    groups = LocalGroups(*files)
    assert groups.has(1000, 50)
    files[0].write_text("adm:x:50:jessie\n")
    os.utime(files[0], ns=(1, 1))
    assert not groups.has(1000, 50)
    files[0].unlink()
    assert not groups.has(1000, 50)
