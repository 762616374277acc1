"""D8: configuration or code that others could change is refused, and the path is named."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from mepd.config import ini
from mepd.config.ownership import check_ownership, code_paths, settings_paths
from mepd.errors import ConfigError

ME = os.geteuid()


@pytest.fixture
def conf(tmp_path: Path) -> Path:
    path = tmp_path / "etc/mepd.conf"
    path.parent.mkdir(mode=0o755)
    path.write_text("")
    path.chmod(0o644)
    return path


def test_D8_own_files_pass(conf: Path) -> None:
    check_ownership([conf, conf.parent / "none.conf"])


@pytest.mark.parametrize("mode", [0o664, 0o646, 0o666])
def test_D8_file_writable_by_others(conf: Path, mode: int) -> None:
    conf.chmod(mode)
    with pytest.raises(ConfigError) as caught:
        check_ownership([conf])
    assert str(caught.value) == f"{conf}: is writable by others (mode {mode:04o})"


@pytest.mark.parametrize("mode", [0o775, 0o757])
def test_D8_parent_folder_writable_by_others(conf: Path, mode: int) -> None:
    conf.parent.chmod(mode)
    with pytest.raises(ConfigError) as caught:
        check_ownership([conf])
    assert str(caught.value).startswith(f"{conf.parent}: is writable by others")
    assert f"(on the way to {conf})" in str(caught.value)


def test_D8_sticky_parent_is_tolerated(conf: Path) -> None:
    conf.parent.chmod(0o1777)
    check_ownership([conf])


def test_D8_other_owner(conf: Path) -> None:
    """For root, what belongs to anybody else; for another account, what is neither's."""
    if ME == 0:
        os.chown(conf, 4711, 4711)
    with pytest.raises(ConfigError, match="belongs to uid"):
        check_ownership([conf], uid=0 if ME == 0 else ME + 1)


def test_D8_link_through_a_writable_folder(conf: Path) -> None:
    """Each link counts: the target may be safe, and the way to it not."""
    open_folder = conf.parent.parent / "open"
    open_folder.mkdir()
    open_folder.chmod(0o777)
    (open_folder / "hop").symlink_to(conf.parent)
    link = conf.parent / "link.conf"
    link.symlink_to(open_folder / "hop" / conf.name)
    with pytest.raises(ConfigError, match="open: is writable by others"):
        check_ownership([link])
    open_folder.chmod(0o755)
    check_ownership([link])


def test_D8_relative_link_and_dots(conf: Path) -> None:
    (conf.parent / "sub").mkdir()
    link = conf.parent / "sub/link.conf"
    link.symlink_to("../mepd.conf")
    check_ownership([link])
    conf.chmod(0o666)
    with pytest.raises(ConfigError, match="mepd.conf: is writable"):
        check_ownership([link])


def test_link_loop(conf: Path) -> None:
    (conf.parent / "a").symlink_to("b")
    (conf.parent / "b").symlink_to("a")
    with pytest.raises(OSError, match="symbolic links"):
        check_ownership([conf.parent / "a"])


def test_D8_code_of_the_package(tmp_path: Path) -> None:
    package = tmp_path / "package"
    (package / "inner").mkdir(parents=True)
    (package / "inner/module.py").write_text("")
    paths = code_paths(package, ["", str(tmp_path)], "/usr/bin/env")
    assert {package / "inner/module.py", tmp_path, Path("/usr/bin/env")} <= set(paths)
    check_ownership(paths)
    (package / "inner/module.py").chmod(0o666)
    with pytest.raises(ConfigError, match="module.py"):
        check_ownership(paths)


def test_paths_of_the_settings(conf: Path) -> None:
    conf.write_text(
        "[service]\ncredentials=c.json\n[program:a]\ncommand=/bin/a b\n[program:b]\ncommand=b\n"
    )
    assert settings_paths(ini.load(conf)) == (conf, conf.parent / "c.json", Path("/bin/a"))
