"""mepctl enable-on-boot and disable-on-boot, on a system below a folder."""

from __future__ import annotations

import errno
import os
import sys
from pathlib import Path

import pytest

from mepd.config import ini
from mepd.ctl import units
from mepd.ctl.main import main
from mepd.errors import ControlError


@pytest.fixture
def system(tmp_path: Path) -> Path:
    (tmp_path / "etc/systemd/system").mkdir(parents=True)
    (tmp_path / "srv/gpu").mkdir(parents=True)
    (tmp_path / "srv/gpu/config.yaml").write_text("multi_user: true\n")
    return tmp_path


def enable(system: Path, *words: str) -> int:
    return main(["enable-on-boot", "--root", str(system), "--config-dir", "/srv", *words])


def disable(system: Path, *words: str) -> int:
    return main(["disable-on-boot", "--root", str(system), *words])


def test_what_it_prints_and_installs(system: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert enable(system) == 0
    assert capsys.readouterr().out == (
        f"Systemd service installed at {system}/etc/systemd/system/mepd.service. Run\n"
        "\tsudo systemctl enable mepd --now\n"
        "to enable the service and start the endpoint.\n"
    )
    unit = (system / "etc/systemd/system/mepd.service").read_text()
    assert f"ExecStart={sys.prefix}/bin/mepd --nodaemon --configuration /etc/mepd/mepd.conf" in unit
    assert "Type=notify" in unit and "WatchdogSec=" in unit and "KillMode=mixed" in unit
    for name in ("etc/sysusers.d/mepd.conf", "etc/tmpfiles.d/mepd.conf", "etc/mepd/mepd.conf"):
        assert (system / name).stat().st_mode & 0o777 == 0o644


def test_an_endpoint_is_served_from_then_on(system: Path) -> None:
    assert enable(system, "gpu") == 0
    (endpoint,) = ini.load(system / "etc/mepd/mepd.conf").endpoints
    assert (endpoint.name, endpoint.directory) == ("gpu", Path("/srv/gpu"))


def test_a_second_endpoint_leaves_the_unit(
    system: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert enable(system) == 0
    unit = system / "etc/systemd/system/mepd.service"
    unit.write_text("changed by hand\n")
    capsys.readouterr()
    assert enable(system, "gpu") == 0
    assert "systemctl reload-or-restart mepd" in capsys.readouterr().out
    assert unit.read_text() == "changed by hand\n"


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        ((), os.EX_CANTCREAT, "mepd.service exists; nothing is changed"),
        (("gpu",), os.EX_CANTCREAT, "endpoint gpu is configured already"),
        (("cpu",), os.EX_NOINPUT, "mepctl configure --multi-user cpu"),
        (("../x",), os.EX_CONFIG, "Invalid endpoint name"),
    ],
)
def test_refusals_change_nothing(
    system: Path, words: tuple[str, ...], code: int, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert enable(system, "gpu") == 0
    before = {p: p.read_bytes() for p in system.rglob("*") if p.is_file()}
    capsys.readouterr()
    assert enable(system, *words) == code
    err = capsys.readouterr().err
    assert said in err and err.count("\n") == 1
    assert {p: p.read_bytes() for p in system.rglob("*") if p.is_file()} == before


def test_a_refused_endpoint_leaves_no_unit(system: Path) -> None:
    assert enable(system, "cpu") == os.EX_NOINPUT
    assert not (system / "etc/systemd/system/mepd.service").exists()
    assert not (system / "etc/mepd/mepd.conf").exists()


def test_an_endpoint_of_mepd_conf_needs_no_file_of_its_own(system: Path) -> None:
    (system / "etc/mepd").mkdir()
    (system / "etc/mepd/mepd.conf").write_text("[endpoint:gpu]\ndirectory = /srv/gpu\n")
    assert enable(system, "gpu") == 0
    assert (system / "etc/systemd/system/mepd.service").exists()
    assert not (system / "etc/mepd/conf.d").exists()
    assert enable(system, "gpu") == os.EX_CANTCREAT


def test_where_conf_d_is_not_included(system: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert enable(system) == 0
    (system / "etc/mepd/mepd.conf").write_text("[mepd]\n")
    assert enable(system, "gpu") == os.EX_CONFIG
    assert "does not include conf.d" in capsys.readouterr().err
    assert not list((system / "etc/mepd/conf.d").iterdir())


def test_no_systemd(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert enable(tmp_path) == os.EX_UNAVAILABLE
    assert "update-rc.d mepd defaults" in capsys.readouterr().err


def test_disable_undoes_it(system: Path) -> None:
    assert enable(system, "gpu") == 0
    assert disable(system, "gpu") == 0
    assert ini.load(system / "etc/mepd/mepd.conf").endpoints == ()
    assert disable(system, "gpu") == os.EX_UNAVAILABLE
    assert disable(system) == 0
    left = {str(p.relative_to(system)) for p in system.rglob("*") if p.is_file()}
    assert left == {"etc/mepd/mepd.conf", "srv/gpu/config.yaml"}
    assert disable(system) == os.EX_UNAVAILABLE


def test_a_path_with_blanks_and_percent_signs_is_one_word(tmp_path: Path) -> None:
    text = units.service_unit(Path('/etc/my "site"/100%/mepd.conf'))
    assert '--configuration "/etc/my \\"site\\"/100%%/mepd.conf"\n' in text
    with pytest.raises(ControlError):
        units.service_unit(Path("/etc/a\nExecStartPre=/bin/x"))


def test_an_endpoint_that_makes_the_configuration_wrong_is_not_left_there(
    system: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its folder is another endpoint's: mepd would not start with it."""
    assert enable(system) == 0
    conf = system / "etc/mepd/mepd.conf"
    conf.write_text(conf.read_text() + "\n[endpoint:old]\ndirectory = /srv/gpu\n")
    capsys.readouterr()
    assert enable(system, "gpu") == os.EX_CONFIG
    assert "/srv/gpu is that of [endpoint:" in capsys.readouterr().err
    assert [e.name for e in ini.load(conf).endpoints] == ["old"]
    assert not list((system / "etc/mepd/conf.d").iterdir())


def test_a_section_that_cannot_be_written_is_not_left_there(
    system: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert enable(system) == 0

    def full(fd: int, mode: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fchmod", full)
    assert enable(system, "gpu") == os.EX_CANTCREAT
    assert "No space left on device" in capsys.readouterr().err
    assert not list((system / "etc/mepd/conf.d").iterdir())


def test_a_file_that_is_there_is_left_as_it_is(system: Path) -> None:
    assert enable(system) == 0
    other = system / "etc/mepd/conf.d/gpu.conf"
    other.parent.mkdir(exist_ok=True)
    other.write_text("; somebody's\n")
    assert enable(system, "gpu") == os.EX_CANTCREAT
    assert other.read_text() == "; somebody's\n"
