"""mepctl map and render: what a start would make of an identity, and of options.

The mapping and the template engine are not mepctl's: a process of its own does the work.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import click

from mepd.ctl import complete, folders, isolated, output
from mepd.ctl.configure import config_dir_option
from mepd.ctl.main import Target
from mepd.ctl.output import Printer
from mepd.errors import ControlError, WireError
from mepd.wire import jsonlimits
from mepd.wire.framing import parse_json
from mepd.wire.start_request import USER_OPTS_MAX

JSON_FILE = click.Path(dir_okay=False, allow_dash=True)
_MODULE = "mepd.launch.preview"
_FILE_MAX = 1024 * 1024
_LIVE = ("used", "private")
_IDENTITY_KEYS = ("globus_identity_set", "identity_set", "identities")


def read_json(path: str) -> Any:
    """A JSON file, or stdin for ``-``. Raises ControlError or OSError."""
    if path == "-":
        data = sys.stdin.buffer.read(_FILE_MAX + 1)
    else:
        with open(path, "rb") as f:
            data = f.read(_FILE_MAX + 1)
    if len(data) > _FILE_MAX:
        raise ControlError(f"{path}: larger than {_FILE_MAX} bytes", os.EX_DATAERR)
    try:
        value = parse_json(data)
        jsonlimits.check(value, path)
    except WireError as e:
        raise ControlError(f"{path}: {str(e).removeprefix(f'{path}: ')}", os.EX_DATAERR) from None
    return value


def _mapping(path: str | None, what: str) -> dict[str, Any]:
    value = read_json(path) if path is not None else {}
    if not isinstance(value, dict):
        raise ControlError(f"{path}: {what} must be a JSON object", os.EX_DATAERR)
    if len(json.dumps(value)) > USER_OPTS_MAX:
        raise ControlError(f"{path}: larger than {USER_OPTS_MAX} bytes", os.EX_DATAERR)
    return value


def identities(path: str) -> list[dict[str, Any]]:
    """One identity, a list of linked ones, or a start request's. Raises ControlError."""
    value = read_json(path)
    if isinstance(value, dict):
        sets = [value[key] for key in _IDENTITY_KEYS if key in value]
        value = sets[0] if sets else [value]
    if not isinstance(value, list) or not value or not all(isinstance(i, dict) for i in value):
        raise ControlError(f"{path}: is no identity and no list of identities", os.EX_DATAERR)
    for number, identity in enumerate(value, start=1):
        if not isinstance(identity.get("id"), str):
            raise ControlError(f"{path}: identity {number} has no id", os.EX_DATAERR)
    return value


def _run(job: dict[str, Any]) -> dict[str, Any]:
    """Raises ControlError with what the process says is wrong, or that it says nothing."""
    done = isolated.ask(_MODULE, job)
    try:
        answer = parse_json(done.stdout)
    except WireError:
        last = done.stderr.decode("utf-8", "replace").strip().rpartition("\n")[2]
        text = output.printable(last) or f"exit code {done.returncode}"
        raise ControlError(f"{_MODULE} failed: {text}", os.EX_SOFTWARE) from None
    if not isinstance(answer, dict) or "error" in answer:
        raise ControlError(answer["error"], answer["exit_code"])
    return answer


def _job(target: Target, verb: str, name: str | None, config_dir: Path | None) -> dict[str, Any]:
    place = folders.find(target, name, config_dir)
    return {"verb": verb, "config": place.config, "name": place.name,
            "directory": str(place.directory)}  # fmt: skip


@click.command("map")
@click.argument("file", metavar="IDENTITY.json", type=JSON_FILE)
@click.option(
    "--endpoint", help="Whose mapping; needed if several are configured.",
    shell_complete=complete.endpoints,
)  # fmt: skip
@config_dir_option
@output.printed
@click.pass_obj
def map_(
    target: Target, out: Printer, file: str, endpoint: str | None, config_dir: Path | None
) -> int:
    """Show to which account an identity maps, by which rule, or why to none.

    IDENTITY.json holds one identity as a JSON object, or a list of linked ones. It is mapped by the
    files as they are now, with the caller's rights.
    """
    given = identities(file)
    job = {**_job(target, "map", endpoint, config_dir), "identities": given}
    data = _run(job)
    data["notes"] += [
        f"identity {n} is skipped: its status is neither {_LIVE[0]} nor {_LIVE[1]}"
        for n, identity in enumerate(given, start=1)
        if identity.get("status") not in _LIVE
    ]

    def draw() -> None:
        out.table(("FIELD", "VALUE"), [[k, _shown(v)] for k, v in data.items() if k != "notes"])
        for note in data["notes"]:
            click.echo(f"note: {output.printable(note)}", err=True)

    out.show(data, draw)
    if not data["mapped"]:
        click.echo(f"mepctl: not mapped: {output.printable(data['reason'])}", err=True)
    return os.EX_OK if data["mapped"] else os.EX_NOUSER


def _shown(value: Any) -> Any:
    return ("yes" if value else "no") if isinstance(value, bool) else str(value or "")


@click.command("render")
@click.argument("name", shell_complete=complete.endpoints)
@click.option(
    "--user-opts", metavar="FILE", type=JSON_FILE, help="The user's options, a JSON object."
)
@click.option(
    "--identity", metavar="FILE", type=JSON_FILE, help="For this identity, as map takes it."
)
@click.option("--user", help="For this account, in place of an identity.")
@click.option(
    "--runtime", metavar="FILE", type=JSON_FILE, help="What the user's SDK says of itself."
)
@config_dir_option
@output.printed
@click.pass_obj
def render_(
    target: Target,
    out: Printer,
    name: str,
    user_opts: str | None,
    identity: str | None,
    user: str | None,
    runtime: str | None,
    config_dir: Path | None,
) -> int:
    """Print the configuration that a user endpoint of endpoint NAME would get.

    The files are taken as they are now, and rendered as the account of the identity, as
    --user, or as nobody. A FILE may be - for the standard input.
    """
    if identity is not None and user is not None:
        raise ControlError("say --identity or --user, not both", os.EX_USAGE)
    job = {
        **_job(target, "render", name, config_dir),
        "options": _mapping(user_opts, "the user's options"),
        "runtime": _mapping(runtime, "the runtime"),
        "identities": identities(identity) if identity is not None else [],
        "user": user or "",
    }
    data = _run(job)
    code = os.EX_NOUSER if data["stage"] == "PREPARE" else int(data["code"])
    if data["text"] is None and not out.as_json:
        raise ControlError(data["reason"], code)
    out.show(data, lambda: click.echo(data["text"].rstrip("\n")))
    return code
