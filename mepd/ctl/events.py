"""mepctl events and failures: what happened of late, and what happens."""

from __future__ import annotations

import contextlib
import json
import os
from typing import Any

import click

from mepd.ctl import complete, output
from mepd.ctl.listing import SHORT
from mepd.ctl.main import Target
from mepd.ctl.output import Printer
from mepd.errors import ControlError

EVENT_HEADER = ("TIME", "EVENT", "ENDPOINT", "USER", "ID", "PID", "DETAIL")
_FAILURE_HEADER = ("TIME", "ENDPOINT", "USER", "ID", "STAGE", "CODE", "REASON")
_FOLLOWED = 10
_WIDTHS = (19, 9, 12, 12, SHORT, 7)


def event_row(e: dict[str, Any]) -> list[Any]:
    stage = f"{e['stage']} {e['code']}: " if e["stage"] and e["code"] is not None else ""
    after = f" (after {e['seconds']} s)" if e["seconds"] is not None else ""
    return [
        output.moment(e["time"]), e["event"], e["endpoint"], e["user"] or e["username"],
        e["id"][:SHORT], e["pid"], f"{stage}{e['reason']}{after}".strip(),
    ]  # fmt: skip


def _failure_row(e: dict[str, Any]) -> list[Any]:
    return [
        output.moment(e["time"]), e["endpoint"], e["user"] or e["username"], e["id"][:SHORT],
        e["stage"], e["code"], e["reason"],
    ]  # fmt: skip


def _filters(user: str | None, endpoint: str | None) -> dict[str, str]:
    return {k: v for k, v in (("user", user), ("endpoint", endpoint)) if v is not None}


user_option = click.option("--user", help="Only those of this account.")
endpoint_option = click.option(
    "--endpoint", help="Only those of this endpoint.", shell_complete=complete.endpoints
)
lines_option = click.option(
    "-n", "--lines", type=click.IntRange(min=0), metavar="N", help="Only the last N."
)


def _last(entries: list[Any], lines: int | None) -> list[Any]:
    return entries if lines is None else entries[len(entries) - min(lines, len(entries)) :]


@click.command("events")
@click.option("-f", "--follow", is_flag=True, help="Go on with what happens, as it happens.")
@lines_option
@user_option
@endpoint_option
@output.printed
@click.pass_obj
def events_(
    target: Target,
    out: Printer,
    follow: bool,
    lines: int | None,
    user: str | None,
    endpoint: str | None,
) -> None:
    """Show what happened: starts, failures, ends, reaps.

    With -f the last ten, and then each as it happens; with --json one object a line.
    """
    filters = _filters(user, endpoint)
    if follow:
        with contextlib.suppress(KeyboardInterrupt):
            _follow(target, out, filters, _FOLLOWED if lines is None else lines)
        return
    data = target.call("events", **filters)
    data["events"] = _last(data["events"], lines)
    out.show(data, lambda: out.table(EVENT_HEADER, [event_row(e) for e in data["events"]]))


def _follow(target: Target, out: Printer, filters: dict[str, str], lines: int) -> None:
    if out.header and not out.as_json:
        _print_line(EVENT_HEADER)
    first = True
    for data in target.follow("events", follow=True, **filters):
        for e in _last(data["events"], lines) if first else data["events"]:
            if out.as_json:
                click.echo(json.dumps(e))
            else:
                _print_line(event_row(e))
        first = False
    raise ControlError("mepd has ended, or left us because we read too slowly", os.EX_UNAVAILABLE)


def _print_line(cells: Any) -> None:
    """Aligned as far as possible: what comes next is not known yet."""
    shown = [output.cell(value) for value in cells]
    padded = [text.ljust(width) for text, width in zip(shown, _WIDTHS, strict=False)]
    click.echo("  ".join([*padded, *shown[len(_WIDTHS) :]]).rstrip())


@click.command("failures")
@lines_option
@user_option
@endpoint_option
@output.printed
@click.pass_obj
def failures_(
    target: Target, out: Printer, lines: int | None, user: str | None, endpoint: str | None
) -> None:
    """Show the last starts that failed, with stage and reason."""
    data = target.call("failures", **_filters(user, endpoint))
    data["failures"] = _last(data["failures"], lines)
    out.show(data, lambda: out.table(_FAILURE_HEADER, [_failure_row(e) for e in data["failures"]]))
