"""mepctl drain, start, stop and restart: endpoints and programs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from mepd.ctl import complete, output
from mepd.ctl.configure import config_dir_option, directory_of
from mepd.ctl.main import Target
from mepd.ctl.output import Printer


def _steer(target: Target, out: Printer, verb: str, names: tuple[str, ...], **args: Any) -> None:
    """One after the other; the first that is refused ends it. Raises ControlError."""
    done: list[dict[str, Any]] = []
    for name in names:
        done.append(target.call_patiently(verb, name=name, **args))
        if not out.as_json:
            click.echo(output.printable(_said(done[-1])))
    if out.as_json:
        output.print_json({"done": done})


def _said(d: dict[str, Any]) -> str:
    if d["kind"] == "endpoint" and d["state"] in ("online", "offline"):
        return f"endpoint {d['name']} is served; see mepctl status"
    return f"{d['kind']} {d['name']}: {d['state']}"


@click.command("drain")
@click.argument("names", nargs=-1, required=True, shell_complete=complete.endpoints)
@output.printed
@click.pass_obj
def drain_(target: Target, out: Printer, names: tuple[str, ...]) -> None:
    """Have endpoints take no more requests; what runs goes on.

    An endpoint whose last user endpoint has gone is stopped. A reload does not start it.
    """
    _steer(target, out, "drain", names)


@click.command("stop")
@click.argument("names", nargs=-1, required=True, shell_complete=complete.services)
@output.printed
@click.pass_obj
def stop_(target: Target, out: Printer, names: tuple[str, ...]) -> None:
    """Stop endpoints with all their user endpoints, or programs; wait for their end.

    NAME may be written as endpoint:NAME or program:NAME.
    """
    _steer(target, out, "stop", names)


@click.command("restart")
@click.argument("names", nargs=-1, required=True, shell_complete=complete.services)
@output.printed
@click.pass_obj
def restart_(target: Target, out: Printer, names: tuple[str, ...]) -> None:
    """Stop and start endpoints or programs."""
    _steer(target, out, "restart", names)


@click.command("start")
@config_dir_option
@click.argument("names", nargs=-1, required=True, shell_complete=complete.services)
@output.printed
@click.pass_obj
def start_(target: Target, out: Printer, config_dir: Path | None, names: tuple[str, ...]) -> None:
    """Start programs, or serve endpoints.

    An endpoint that mepd.conf(5) does not name is served from its folder until mepd ends;
    an [endpoint:NAME] section makes that lasting.
    """
    parent = directory_of(config_dir)
    named = config_dir is not None
    for name in names:
        _steer(target, out, "start", (name,), directory=str(parent / name), named=named)
