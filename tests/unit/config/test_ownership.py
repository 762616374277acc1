"""D8: configuration or code that others could change is refused, and the path is named."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from mepd.config import ini
from mepd.config.endpoint import parse_files
from mepd.config.ownership import (
    _programs,
    check_ownership,
    code_paths,
    endpoint_paths,
    settings_paths,
)
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


def test_I4_D8_what_a_mapper_runs(tmp_path: Path) -> None:
    """Not only the command itself: the script of an interpreter, and that of a script."""
    script = tmp_path / "mapper.py"
    script.write_text("#!/bin/sh\n")
    data = tmp_path / "data"
    data.mkdir(mode=0o777)
    data.chmod(0o777)
    kind = "external_identity_mapping#1.0.0"

    def check(*command: str) -> None:
        (tmp_path / "map.json").write_text(json.dumps([{"DATA_TYPE": kind, "command": command}]))
        files = {
            "config.yaml": "identity_mapping_config_path: map.json",
            "user_config_template.yaml.j2": "", "map.json": (tmp_path / "map.json").read_text(),
        }  # fmt: skip
        snapshot = parse_files("x", tmp_path, files)
        check_ownership(endpoint_paths(snapshot, ["map.json"]))

    for command in ([script], ["/bin/sh", script], ["/bin/sh", "-x", "/none", data, script]):
        script.chmod(0o755)
        check(*map(str, command))
        script.chmod(0o775)
        with pytest.raises(ConfigError, match="mapper.py: is writable by others"):
            check(*map(str, command))
    script.chmod(0o755)
    interpreter = tmp_path / "interpreter"
    interpreter.symlink_to("/bin/sh")
    script.write_text(f"#! {interpreter} -e\n")
    check(str(script))
    interpreter.unlink()
    interpreter.write_bytes(b"")
    interpreter.chmod(0o757)
    with pytest.raises(ConfigError, match="interpreter: is writable by others"):
        check(str(script))


@pytest.mark.parametrize("what", ["a FIFO", "a folder", "nothing", "a device"])
def test_a_mapper_that_is_no_program_holds_nobody_up(tmp_path: Path, what: str) -> None:
    path = tmp_path / "mapper"
    if what == "a FIFO":
        os.mkfifo(path)
    elif what == "a folder":
        path.mkdir()
    elif what == "a device":
        path.symlink_to("/dev/zero")
    before = os.listdir("/proc/self/fd")
    assert list(_programs([str(path)])) == [path]
    assert os.listdir("/proc/self/fd") == before
