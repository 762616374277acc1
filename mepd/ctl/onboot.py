"""mepctl enable-on-boot and disable-on-boot: mepd as a service of systemd's."""

from __future__ import annotations

import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import click

from mepd.ctl import output, units
from mepd.ctl.client import call
from mepd.ctl.configure import config_dir_option, directory_of
from mepd.ctl.main import DEFAULT_CONFIG, Target, explain
from mepd.ctl.output import Printer
from mepd.errors import ConfigError, ControlError

root_option = click.option(
    "--root",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("/"),
    help="Work on a system below this folder, such as an image.",
)


@dataclass(frozen=True)
class _Place:
    """Where a system keeps its units; ``root`` is / or an image's."""

    root: Path
    config: Path

    def path(self, absolute: str | Path) -> Path:
        return self.root / str(absolute).lstrip("/")

    @property
    def unit(self) -> Path:
        return self.path(f"/etc/systemd/system/{units.SERVICE}.service")

    def section(self, name: str) -> Path:
        """The file of an endpoint that mepctl adds; mepd.conf includes it as shipped."""
        return self.path(self.config.parent / "conf.d" / f"{name}.conf")

    @property
    def is_this_system(self) -> bool:
        return self.root == Path("/")


@click.command("enable-on-boot")
@root_option
@config_dir_option
@click.argument("name", required=False)
@output.printed
@click.pass_obj
def enable_on_boot_(
    target: Target, out: Printer, root: Path, config_dir: Path | None, name: str | None
) -> None:
    """Install mepd as a service of systemd's.

    With NAME, endpoint NAME is added to the configuration.
    """
    place = _place(target, root)
    directory = directory_of(config_dir) / (name or "")
    try:
        _enable(place, name, directory, out)
    except PermissionError as e:
        raise ControlError(
            f"{explain(e)}; be root, or install this as {place.unit}:\n\n"
            + units.service_unit(place.config),
            os.EX_NOPERM,
        ) from None
    except OSError as e:
        raise ControlError(explain(e), os.EX_CANTCREAT) from None


def _enable(place: _Place, name: str | None, directory: Path, out: Printer) -> None:
    _need_systemd(place)
    there = place.unit.exists()
    if there and name is None:
        raise ControlError(
            f"{place.unit} exists; nothing is changed (mepctl disable-on-boot removes it)",
            os.EX_CANTCREAT,
        )
    made = [] if there else units.install(place.path, place.config)
    if name is not None:
        try:
            if not _is_configured(place, name):
                made.append(_add_endpoint(place, name, directory))
            elif there:
                raise ControlError(
                    f"endpoint {name} is configured already; nothing is changed",
                    os.EX_CANTCREAT,
                )
        except BaseException:
            units.remove(made)
            raise
    if place.is_this_system:
        _prepare_system()
        _say_if_running(place)
    data = {"unit": str(place.unit), "made": [str(path) for path in made]}
    out.show(data, lambda: click.echo(_enabled(place, name, made[-1], there)))


def _enabled(place: _Place, name: str | None, last: Path, there: bool) -> str:
    """What to do next."""
    if there:
        return (
            f"Endpoint {name} is in {last}. Run\n\tsudo systemctl reload-or-restart"
            f" {units.SERVICE}\nto serve it now."
        )
    return (
        f"Systemd service installed at {place.unit}. Run\n"
        f"\tsudo systemctl enable {units.SERVICE} --now\n"
        "to enable the service and start the endpoint."
    )


def _need_systemd(place: _Place) -> None:
    if not place.unit.parent.is_dir():
        script = units.shipped("init.d")
        raise ControlError(
            f"no {place.unit.parent}: this is no system of systemd's; copy {script}"
            " to /etc/init.d/mepd and run update-rc.d mepd defaults",
            os.EX_UNAVAILABLE,
        )


def _place(target: Target, root: Path) -> _Place:
    return _Place(root.absolute(), (target.config or DEFAULT_CONFIG).absolute())


def _is_configured(place: _Place, name: str) -> bool:
    """Whether mepd.conf names the endpoint. Raises ConfigError or OSError."""
    from mepd.config import ini
    from mepd.config.names import check_name

    check_name(name)
    return any(e.name == name for e in ini.load(place.path(place.config)).endpoints)


def _add_endpoint(place: _Place, name: str, directory: Path) -> Path:
    """Write the section of an endpoint. Raises ControlError, ConfigError or OSError."""
    if not (place.path(directory) / "config.yaml").exists():
        raise ControlError(
            f"{directory} is no endpoint's folder: make it with mepctl configure --multi-user"
            f" {name}", os.EX_NOINPUT,
        )  # fmt: skip
    path = place.section(name)
    path.parent.mkdir(mode=0o755, exist_ok=True)
    f = open(path, "x")
    try:
        with f:
            os.fchmod(f.fileno(), 0o644)
            f.write(f"; written by mepctl enable-on-boot\n[endpoint:{name}]\n"
                    f"directory = {str(directory).replace('%', '%%')}\n")  # fmt: skip
        if not _is_configured(place, name):
            raise ConfigError(f"does not include conf.d/*.conf: add [endpoint:{name}] by hand",
                              str(place.config))  # fmt: skip
    except BaseException:
        path.unlink()  # else mepd would not start any more
        raise
    return path


def _prepare_system() -> None:
    """Make the account and the folders, and have systemd read the new files."""
    if shutil.which("systemd-sysusers"):
        _run("systemd-sysusers", f"/etc/sysusers.d/{units.SERVICE}.conf")
    if shutil.which("systemd-tmpfiles"):
        _run("systemd-tmpfiles", "--create", f"/etc/tmpfiles.d/{units.SERVICE}.conf")
    if Path("/run/systemd/system").is_dir():
        _run("systemctl", "daemon-reload")


def _run(*words: str) -> None:
    done = subprocess.run(words, capture_output=True, text=True)
    if done.returncode:
        tail = (done.stderr.strip() or f"exit code {done.returncode}").splitlines()[-1]
        click.echo(f"mepctl: {words[0]}: {tail}", err=True)


def _say_if_running(place: _Place) -> None:
    try:
        call(Target(place.config, None).socket_path(), "version")
    except (ControlError, ConfigError, OSError):
        return
    if not place.unit.exists() or not _is_active():
        click.echo(
            "mepctl: a mepd runs that is not the service: stop it first, with mepctl shutdown",
            err=True,
        )


def _is_active() -> bool:
    if not shutil.which("systemctl"):
        return False
    return not subprocess.run(["systemctl", "--quiet", "is-active", units.SERVICE]).returncode


@click.command("disable-on-boot")
@root_option
@click.argument("name", required=False)
@output.printed
@click.pass_obj
def disable_on_boot_(target: Target, out: Printer, root: Path, name: str | None) -> None:
    """Undo enable-on-boot.

    The service is stopped. With NAME, only endpoint NAME is taken from the configuration.
    """
    place = _place(target, root)
    try:
        if name is not None:
            _remove_endpoint(place, name, out)
        else:
            _disable(place, out)
    except OSError as e:
        raise ControlError(explain(e), os.EX_NOPERM) from None


def _disable(place: _Place, out: Printer) -> None:
    if not place.unit.exists():
        raise ControlError(f"{place.unit} does not exist; nothing is changed", os.EX_UNAVAILABLE)
    running = place.is_this_system and Path("/run/systemd/system").is_dir()
    if running:
        _run("systemctl", "disable", "--now", units.SERVICE)
    files = units.installed(place.path)
    units.remove(files)
    if running:
        _run("systemctl", "daemon-reload")
    text = f"Systemd service {units.SERVICE} removed; configuration, logs and account stay."
    out.show({"removed": [str(path) for path in files]}, lambda: click.echo(text))


def _remove_endpoint(place: _Place, name: str, out: Printer) -> None:
    from mepd.config.names import check_name

    check_name(name)
    path = place.section(name)
    if not path.exists():
        raise ControlError(
            f"{path} does not exist: enable-on-boot did not add {name}; nothing is changed",
            os.EX_UNAVAILABLE,
        )
    path.unlink()
    text = f"Endpoint {name} removed from the configuration; its folder stays."
    out.show({"removed": [str(path)]}, lambda: click.echo(text))
