"""mepctl kill and reap: end user endpoints."""

from __future__ import annotations

import os
import sys
from typing import Any

import click

from mepd.ctl import complete, output
from mepd.ctl.listing import SHORT
from mepd.ctl.main import Target
from mepd.ctl.output import Printer
from mepd.errors import ControlError

_SHOWN_MAX = 20


@click.command("kill")
@click.argument("targets", nargs=-1, shell_complete=complete.ueps)
@click.option("--signal", "signal_", help="Signal to send, by name or number; TERM if not given.")
@click.option("--user", help="Only user endpoints of this account; alone: all of them.")
@click.option(
    "--endpoint", help="Only those of this endpoint; alone: all of them.",
    shell_complete=complete.endpoints,
)  # fmt: skip
@click.option("--all", "everything", is_flag=True, help="All user endpoints.")
@click.option("--now", is_flag=True, help="Kill the whole tree at once.")
@click.option(
    "-y", "--yes", is_flag=True, help="Do not ask; a TARGET that fits several means all of them."
)
@output.printed
@click.pass_obj
def kill_(
    target: Target,
    out: Printer,
    targets: tuple[str, ...],
    signal_: str | None,
    user: str | None,
    endpoint: str | None,
    everything: bool,
    now: bool,
    yes: bool,
) -> None:
    """End user endpoints.

    A TARGET is a pid, or the beginning of an id or a name. SIGTERM lets one finish; after
    stopwaitsecs its whole process tree is killed. On a terminal more than one is asked for
    first.
    """
    if everything and targets:
        raise ControlError("name user endpoints or say --all, not both", os.EX_USAGE)
    if now and signal_ is not None:
        raise ControlError("say --now or --signal, not both", os.EX_USAGE)
    args: dict[str, Any] = {"targets": list(targets), "all": everything}
    args |= {k: v for k, v in (("user", user), ("endpoint", endpoint)) if v is not None}
    how: dict[str, Any] = {"now": now, **({"signal": signal_} if signal_ else {})}
    ambiguous = yes
    if not yes and sys.stdin.isatty():
        chosen = target.call("kill", ambiguous=True, dry_run=True, **args, **how)["killed"]
        if len(chosen) > 1:
            _confirm(chosen)
            args = {"targets": [k["name"] for k in chosen]}
    data = target.call("kill", ambiguous=ambiguous, **args, **how)
    out.show(data, lambda: _say(data["killed"]))


def _confirm(chosen: list[dict[str, Any]]) -> None:
    """Raises click.Abort for anything but yes."""
    for k in chosen[:_SHOWN_MAX]:
        text = f"{k['id'][:SHORT]}  {output.cell(k['user'])}  pid {k['pid']}"
        click.echo(output.printable(text), err=True)
    if len(chosen) > _SHOWN_MAX:
        click.echo(f"and {len(chosen) - _SHOWN_MAX} more", err=True)
    what = "End" if chosen[0]["signal"] in ("TERM", "INT", "QUIT", "KILL") else "Signal"
    click.confirm(f"{what} {len(chosen)} user endpoints?", abort=True, err=True)


def _say(killed: list[dict[str, Any]]) -> None:
    for k in killed:
        who = output.cell(k["user"])
        click.echo(output.printable(f"{k['id']}: signalled {k['signal']} (pid {k['pid']}, {who})"))
    if not killed:
        click.echo("no user endpoint to end", err=True)


@click.command("reap")
@click.option("--dry-run", is_flag=True, help="Only say which.")
@click.option(
    "--idle", type=click.FloatRange(min=0), metavar="SECONDS",
    help="Also those that have had no task for so long, whatever their own limits.",
)  # fmt: skip
@click.option("--user", help="Only user endpoints of this account.")
@click.option(
    "--endpoint", help="Only those of this endpoint.", shell_complete=complete.endpoints
)
@output.printed
@click.pass_obj
def reap_(
    target: Target,
    out: Printer,
    dry_run: bool,
    idle: float | None,
    user: str | None,
    endpoint: str | None,
) -> None:
    """End the user endpoints that are idle beyond their limits, or that hang.

    mepd does so by itself, with two heartbeats of grace.
    """
    args = {k: v for k, v in (("user", user), ("endpoint", endpoint), ("idle", idle))
            if v is not None}  # fmt: skip
    data = target.call("reap", dry_run=dry_run, **args)

    def draw() -> None:
        rows = [[r["user"], r["id"][:SHORT], r["pid"], r["reason"]] for r in data["reaped"]]
        if rows:
            out.table(("USER", "ID", "PID", "REASON"), rows)
        else:
            click.echo("no user endpoint to reap", err=True)

    out.show(data, draw)
