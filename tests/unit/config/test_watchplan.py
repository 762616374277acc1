"""Which folders must be watched so that nothing that a path leads to changes unseen."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from mepd.config import ini, watchplan


@pytest.fixture
def top(tmp_path: Path) -> Path:
    return tmp_path.resolve()


def folders(*paths: Path) -> set[Path]:
    return set(watchplan.plan_for(paths).folders)


def test_a_plain_file_and_one_that_is_not_there(top: Path) -> None:
    (top / "a").mkdir()
    (top / "a/file").touch()
    assert folders(top / "a/file", top / "a/none") == {top / "a"}
    assert folders(top / "none/deep/file") == {top}
    plan = watchplan.plan_for([top / "a/.hidden"])
    assert plan.concerns(str(top / "a/.hidden")) and plan.concerns(str(top / "a/new"))
    assert not plan.concerns(str(top / "other"))


def test_every_link_on_the_way_and_the_target(top: Path) -> None:
    (top / "real/v1").mkdir(parents=True)
    (top / "real/v1/file").touch()
    (top / "real/..data").symlink_to("v1")
    (top / "etc").mkdir()
    (top / "etc/file").symlink_to(top / "real/..data/file")
    plan = watchplan.plan_for([top / "etc/file"])
    assert set(plan.folders) == {top / "etc", top / "real", top / "real/v1"}
    assert {str(top / "real/..data"), str(top / "real/v1/file")} <= plan.names


def test_dangling_and_circular_links(top: Path) -> None:
    (top / "a").mkdir()
    (top / "a/dangling").symlink_to("../b/none")
    (top / "a/loop").symlink_to("loop")
    assert folders(top / "a/dangling") == {top, top / "a"}
    assert folders(top / "a/loop") == {top / "a"}


def test_where_included_files_could_appear(top: Path) -> None:
    (top / "conf.d").mkdir()
    (top / "sites/x").mkdir(parents=True)
    (top / "mepd.conf").write_text("[include]\nfiles = conf.d/*.conf sites/*/m.conf later/*\n")
    settings = ini.load(top / "mepd.conf")
    found = folders(*watchplan.settings_paths(settings))
    assert found == {top, top / "conf.d", top / "sites", top / "sites/x"}


def test_a_folder_that_was_replaced_needs_a_new_watch(top: Path) -> None:
    (top / "a").mkdir()
    plan = watchplan.plan_for([top / "a/file"])
    before = watchplan.identity(plan)
    (top / "a").rename(top / "old")
    (top / "a").mkdir()
    assert watchplan.identity(plan) != before


def test_a_signature_changes_with_everything_that_counts(top: Path) -> None:
    file, seen = top / "file", set()

    def changed() -> bool:
        now = watchplan.signature([file])
        known, _ = now in seen, seen.add(now)
        return not known

    assert changed() and not changed()
    file.write_text("1")
    assert changed() and not changed()
    os.utime(file, ns=(1, 1))
    assert changed()
    file.chmod(0o666)
    assert changed()
    other = top / "other"
    other.write_text("1")
    os.utime(other, ns=(1, 1))
    other.chmod(0o666)
    other.rename(file)
    assert changed()  # the inode
    file.unlink()
    os.mkfifo(file)
    assert changed() and not changed()  # and nobody waits for a writer
