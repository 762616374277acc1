"""mepctl list: one line a user endpoint."""

from __future__ import annotations

import contextlib
import json
import math
import os
import sys
import time
from typing import Any

import click

from mepd.ctl import complete, output, usage
from mepd.ctl.main import Target
from mepd.ctl.output import Printer
from mepd.errors import ControlError
from mepd.model import UepState

STATES = tuple(s.value for s in UepState if s is not UepState.GONE)
SORT_KEYS = (
    "user", "id", "name", "endpoint", "pid", "state", "uptime", "running", "done", "idle", "cpu",
    "rss", "failure",
)  # fmt: skip
HEADER = (
    "USER", "ID", "PID", "STATE", "UPTIME", "RUN", "DONE", "IDLE", "%CPU", "RSS", "FAILURE"
)  # fmt: skip
SHORT = 8
_CLEAR = "\033[H\033[2J"


def states(text: str | None) -> list[str]:
    """``RUNNING,stopping`` as states. Raises ControlError."""
    found = [s.strip().upper() for s in (text or "").split(",") if s.strip()]
    for state in found:
        if state not in STATES:
            raise ControlError(f"no state {state!r}; known are {', '.join(STATES)}", os.EX_USAGE)
    return found


def sort(rows: list[dict[str, Any]], key: str | None) -> list[dict[str, Any]]:
    """By a field, descending with a leading ``-``; what is unknown comes last.

    Raises ControlError.
    """
    if key is None:
        return rows
    field = key.lstrip("+-").lower()
    if field not in SORT_KEYS:
        known = ", ".join(SORT_KEYS)
        raise ControlError(f"cannot sort by {field!r}; known are {known}", os.EX_USAGE)

    def value(row: dict[str, Any]) -> Any:
        return row[field]["time"] if field == "failure" and row[field] else row[field]

    known_rows = [r for r in rows if value(r) not in (None, "")]
    others = [r for r in rows if value(r) in (None, "")]
    return sorted(known_rows, key=value, reverse=key.startswith("-")) + others


class Lister:
    """Asks for the user endpoints and measures them; a second look compares with the first."""

    def __init__(self, target: Target, filters: dict[str, Any], key: str | None) -> None:
        sort([], key)
        self._target = target
        self._filters = filters
        self._key = key
        self._before: dict[int, usage.TreeUse] = {}

    def look(self) -> dict[str, Any]:
        """The answer of mepd, with ``cpu`` and ``rss``. Raises ControlError."""
        data: dict[str, Any] = self._target.call("list", **self._filters)
        roots = [(u["pid"], u["created"]) for u in data["ueps"]]
        uses = usage.measure(roots) if roots else {}
        for u in data["ueps"]:
            use = uses.get(u["pid"])
            u["cpu"] = use.cpu(self._before.get(u["pid"])) if use else None
            u["rss"] = use.rss if use else None
        self._before = uses
        data["ueps"] = sort(data["ueps"], self._key)
        return data


def _a_number(_c: click.Context, _p: click.Parameter, value: float | None) -> float | None:
    """Which a range takes for granted."""
    if value is not None and math.isnan(value):
        raise click.BadParameter("'nan' is not a valid float range.")
    return value


@click.command("list")
@click.option("--user", help="Only the user endpoints of this account.")
@click.option(
    "--endpoint", help="Only those of this endpoint.", shell_complete=complete.endpoints
)
@click.option(
    "--state", help="Only those in this state, or in one of several with commas between.",
    shell_complete=complete.words(STATES),
)  # fmt: skip
@click.option(
    "--sort", "key", metavar="FIELD", help="Sort by this field; -FIELD: descending.",
    shell_complete=complete.words(SORT_KEYS),
)  # fmt: skip
@click.option(
    "--watch", is_flag=False, flag_value=2.0, type=click.FloatRange(min=0.1, max=86400),
    callback=_a_number, metavar="[SECONDS]",
    help="Again every 2 s, or so many seconds, until interrupted.",
)  # fmt: skip
@output.printed
@click.pass_obj
def list_(
    target: Target,
    out: Printer,
    user: str | None,
    endpoint: str | None,
    state: str | None,
    key: str | None,
    watch: float | None,
) -> None:
    """List the user endpoints.

    Other accounts than root and the group of the control socket see only their own.
    """
    filters: dict[str, Any] = {
        k: v for k, v in (("user", user), ("endpoint", endpoint)) if v is not None
    }
    if state is not None:
        filters["states"] = states(state)
    lister = Lister(target, filters, key)
    if watch is None:
        data = lister.look()
        out.show(data, lambda: draw(data, out))
        return
    with contextlib.suppress(KeyboardInterrupt):
        while True:
            _again(lister.look(), out)
            time.sleep(watch)


def _again(data: dict[str, Any], out: Printer) -> None:
    if out.as_json:
        click.echo(json.dumps(data))
        return
    if sys.stdout.isatty():
        click.echo(_CLEAR, nl=False)
    draw(data, out)
    if not sys.stdout.isatty():
        click.echo()


def draw(data: dict[str, Any], out: Printer) -> None:
    now = time.time()
    out.table(HEADER, [_row(u, now) for u in data["ueps"]])


def _row(u: dict[str, Any], now: float) -> list[Any]:
    idle = "-" if u["idle"] is None else f"{u['idle']}/{u['soft']}" if u["soft"] else str(u["idle"])
    return [
        u["user"] or "?", u["id"][:SHORT], u["pid"], u["state"], output.duration(u["uptime"]),
        u["running"], u["done"], idle, u["cpu"], output.size(u["rss"]), failure(u["failure"], now),
    ]  # fmt: skip


def failure(last: dict[str, Any] | None, now: float) -> str:
    """``TEMPLATE 5:06 ago``"""
    return f"{last['stage']} {output.duration(max(0.0, now - last['time']))} ago" if last else ""
