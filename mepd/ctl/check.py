"""mepctl check: would mepd start, and could it serve? Nothing is changed, nobody is asked."""

from __future__ import annotations

import dataclasses
import grp
import os
import pwd
import stat
import sys
from pathlib import Path

import click

import mepd
from mepd.config import ini, ownership
from mepd.config.accountpolicy import account_policy
from mepd.config.settings import Settings
from mepd.ctl import complete, output
from mepd.ctl.checkendpoint import EndpointCheck
from mepd.ctl.configure import config_dir_option
from mepd.ctl.findings import ERROR, WARNING, Findings
from mepd.ctl.folders import find
from mepd.ctl.main import DEFAULT_CONFIG, Target
from mepd.ctl.output import Printer
from mepd.ctl.preview import read_json
from mepd.errors import ConfigError, ControlError

CONF = "mepd.conf"


@click.command("check")
@click.argument("names", nargs=-1, shell_complete=complete.endpoints)
@click.option(
    "--user", default="nobody", show_default=True,
    help="A mapped user: uep_command must be within reach of this account.",
)  # fmt: skip
@config_dir_option
@output.printed
@click.pass_obj
def check_(
    target: Target, out: Printer, names: tuple[str, ...], user: str, config_dir: Path | None
) -> int:
    """Check the configuration and the endpoints' folders.

    All endpoints of the configuration, or NAMES. The exit code is 78 if there is an error;
    warnings are none. To be run as root, as mepd is.
    """
    try:
        mapped = pwd.getpwnam(user)
    except KeyError:
        raise ControlError(f"there is no account {user!r}", os.EX_NOUSER) from None
    found = Findings()
    settings = _settings(found, (target.config or DEFAULT_CONFIG).absolute())
    if settings is not None:
        _check_settings(found, settings)
    if names:
        places = [find(target, name, config_dir) for name in names]
        folders = [(place.name, place.directory) for place in places]
    else:
        folders = [(e.name, e.directory) for e in settings.endpoints] if settings else []
    for name, directory in folders:
        EndpointCheck(found, name, directory, mapped).run()
    data = {"checks": [dataclasses.asdict(f) for f in found.found], "errors": found.errors}
    rows = [[f.of, f.what, f.state, f.detail] for f in found.found]
    out.show(data, lambda: out.table(("OF", "CHECK", "STATE", "DETAIL"), rows))
    return os.EX_CONFIG if found.errors else os.EX_OK


def _settings(found: Findings, path: Path) -> Settings | None:
    loaded: list[Settings] = []

    def load() -> str:
        loaded.append(ini.load(path))
        count = len(loaded[0].files)
        return str(path) if count == 1 else f"{path} and {count - 1} that it includes"

    found.attempt(CONF, "configuration", load)
    return loaded[0] if loaded else None


def _check_settings(found: Findings, settings: Settings) -> None:
    if os.geteuid() == 0:
        found.attempt(CONF, "ownership", lambda: _ownership(settings))
        found.attempt(CONF, "account of the workers", lambda: _account(settings))
    else:
        found.note(CONF, "ownership", WARNING, "not checked: only root's mepd needs it; be root")
    found.attempt(CONF, "accounts to serve", lambda: _policy(settings))
    found.attempt(CONF, "control socket", lambda: _control(settings))
    _check_credentials(found, settings.service.credentials)
    if not settings.endpoints:
        found.note(CONF, "endpoints", WARNING, "there is no [endpoint:NAME] section")
    for program in settings.programs:
        command = program.command[0]
        if command.startswith("/") and not os.access(command, os.X_OK):
            found.note(CONF, f"program {program.name}", ERROR, f"{command} cannot be executed")


def _ownership(settings: Settings) -> str:
    ownership.check_ownership(ownership.settings_paths(settings))
    code = ownership.code_paths(Path(mepd.__file__).parent, sys.path, sys.executable)
    ownership.check_ownership(code)
    return "only root can change what mepd reads and runs"


def _account(settings: Settings) -> str:
    name = settings.mepd.user
    try:
        entry = pwd.getpwnam(name)
    except KeyError:
        raise settings.error(
            "[mepd] user", f" = {name}: there is no such account (useradd --system {name})"
        ) from None
    if entry.pw_uid == 0:
        raise settings.error("[mepd] user", " must not be root: the workers face the network")
    return f"{name} (uid {entry.pw_uid})"


def _policy(settings: Settings) -> str:
    policy = account_policy(settings, ())
    groups = settings.mepd.allow_groups
    return f"uid {policy.min_uid} and above" + (f", in {', '.join(groups)}" if groups else "")


def _control(settings: Settings) -> str:
    user, _, group = settings.control.chown.partition(":")
    for name, find_name in ((user, pwd.getpwnam), (group, grp.getgrnam)):
        try:
            if name:
                find_name(name)
        except KeyError:
            raise settings.error(
                "[control] chown", f" = {settings.control.chown}: no {name}"
            ) from None
    administrators = f"root and the group {group}" if group else "root"
    return f"{settings.control.file}; administrators are {administrators}"


def _check_credentials(found: Findings, path: Path | None) -> None:
    if path is None:
        found.note(CONF, "credentials", WARNING, "[service] credentials is not set")
        return

    def read() -> str:
        value = read_json(str(path))
        if not isinstance(value, dict) or not (
            {"client_id", "client_secret"} <= value.keys() or "token" in value
        ):
            raise ConfigError("holds neither client_id and client_secret nor a token", str(path))
        return str(path)

    if found.attempt(CONF, "credentials", read):
        mode = stat.S_IMODE(path.stat().st_mode)
        if mode & 0o077:
            text = f"{path} is open to others (mode {mode:04o}); make it 0600"
            found.note(CONF, "credentials", WARNING, text)
