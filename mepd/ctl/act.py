"""mepctl kill, reload and shutdown: end user endpoints, steer the master."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import click

from mepd.ctl import output
from mepd.ctl.configure import default_directory
from mepd.ctl.main import Target
from mepd.errors import ControlError


@click.command("kill")
@click.argument("targets", nargs=-1)
@click.option("--signal", "signal_", default="TERM", show_default=True, help="Signal to send.")
@click.option("--user", help="Only user endpoints of this account; alone: all of them.")
@click.option("--all", "everything", is_flag=True, help="All user endpoints.")
@click.option("--now", is_flag=True, help="Kill the whole tree at once.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_obj
def kill_(
    target: Target,
    targets: tuple[str, ...],
    signal_: str,
    user: str | None,
    everything: bool,
    now: bool,
    yes: bool,
    as_json: bool,
) -> None:
    """End user endpoints.

    A TARGET is a pid, a name, or the beginning of an id. SIGTERM lets one finish; after
    stopwaitsecs its whole process tree is killed. On a terminal more than one is asked for
    first.
    """
    if everything and targets:
        raise ControlError("name user endpoints or say --all, not both", os.EX_USAGE)
    filters: dict[str, Any] = {"user": user} if user is not None else {}
    _confirm(target, targets, filters, yes)
    data = target.call(
        "kill", targets=list(targets), signal=signal_, now=now, all=everything, **filters
    )
    if as_json:
        output.print_json(data)
        return
    for k in data["killed"]:
        click.echo(f"{k['id']}: signalled {k['signal']} (pid {k['pid']}, {k['user']})")
    if not data["killed"]:
        click.echo("no user endpoint to end", err=True)


def _confirm(target: Target, targets: tuple[str, ...], filters: dict[str, Any], yes: bool) -> None:
    """On a terminal, ask before more than one is ended."""
    if yes or not sys.stdin.isatty():
        return
    ueps = target.call("list", **filters)["ueps"]
    count = sum(1 for u in ueps if not targets or any(_names(t, u) for t in targets))
    if count > 1:
        click.confirm(f"End {count} user endpoints?", abort=True, err=True)


def _names(target: str, uep: dict[str, Any]) -> bool:
    return target in (str(uep["pid"]), uep["name"]) or uep["id"].startswith(target.lower())


@click.command("reload")
@click.pass_obj
def reload_(target: Target) -> None:
    """Read the configuration again."""
    target.call("reload")


@click.command("start")
@click.option(
    "--config-dir",
    type=click.Path(path_type=Path, file_okay=False),
    help="Folder of the endpoints' folders.",
)
@click.argument("name")
@click.pass_obj
def start_(target: Target, config_dir: Path | None, name: str) -> None:
    """Serve an endpoint's folder.

    The running mepd does so until it ends. An [endpoint:NAME] section in mepd.conf(5)
    makes that lasting.
    """
    directory = (config_dir or default_directory()).expanduser().absolute() / name
    target.call("start", name=name, directory=str(directory))
    click.echo(f"endpoint {name} is served; see mepctl status")


@click.command("shutdown")
@click.pass_obj
def shutdown_(target: Target) -> None:
    """Stop mepd and all that it runs."""
    target.call("shutdown")
