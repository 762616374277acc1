"""mepctl reload and shutdown: mepd as a whole."""

from __future__ import annotations

import os
from typing import Any

import click

from mepd.ctl import output
from mepd.ctl.main import Target
from mepd.ctl.output import Printer


@click.command("reload")
@click.option("--dry-run", is_flag=True, help="Only say what would change.")
@output.printed
@click.pass_obj
def reload_(target: Target, out: Printer, dry_run: bool) -> int:
    """Read the configuration again.

    What is wrong changes nothing and is said; the exit code is then 78.
    """
    data = target.call("reload", dry_run=dry_run)
    out.show(data, lambda: _say(data, out))
    for e in data["errors"]:
        text = f"mepctl: {e['of']}: {e['error']}"
        click.echo(output.printable(text), err=True)
    return os.EX_CONFIG if data["errors"] else os.EX_OK


def _say(data: dict[str, Any], out: Printer) -> None:
    if data["changes"]:
        out.table(("OF", "CHANGE"), [[c["of"], c["change"]] for c in data["changes"]])
    elif not data["errors"]:
        click.echo("nothing changed")
    if data["waiting"]:
        text = f"in force only when mepd is started again: {data['waiting']}"
        click.echo(output.printable(text))


@click.command("shutdown")
@output.printed
@click.pass_obj
def shutdown_(target: Target, out: Printer) -> None:
    """Stop mepd and all that it runs."""
    data = target.call("shutdown")
    out.show(data, lambda: None)
