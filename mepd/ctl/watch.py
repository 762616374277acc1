"""mepctl status, list and version: look, change nothing."""

from __future__ import annotations

from typing import Any

import click

import mepd
from mepd.ctl import output
from mepd.ctl.client import NotRunning
from mepd.ctl.main import Target, explain
from mepd.errors import MepdError

LSB_RUNNING, LSB_NOT_RUNNING, LSB_UNKNOWN = 0, 3, 4

json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
header_option = click.option("--no-header", is_flag=True, help="Print no line of column names.")


@click.command("status")
@json_option
@header_option
@click.pass_obj
def status_(target: Target, as_json: bool, no_header: bool) -> int:
    """Show what runs.

    The master, its workers, programs and endpoints. The exit code is that of an LSB init
    script: 0 running, 3 not running, 4 unknown.
    """
    try:
        data = target.call("status")
    except NotRunning as e:
        click.echo(f"mepctl: {e}", err=True)
        return LSB_NOT_RUNNING
    except (MepdError, OSError) as e:
        click.echo(f"mepctl: {explain(e) if isinstance(e, OSError) else e}", err=True)
        return LSB_UNKNOWN
    if as_json:
        output.print_json(data)
        return LSB_RUNNING
    _print_status(data, not no_header)
    return LSB_RUNNING


def _print_status(data: dict[str, Any], header: bool) -> None:
    m = data["master"]
    rows: list[list[Any]] = [
        ["master", m["state"], m["pid"], output.duration(m["uptime"]), f"mepd {m['version']}"]
    ]
    for w in data["workers"]:
        note = f"{w['restarts']} restarts" if w["restarts"] else ""
        rows.append([w["name"], w["state"], w["pid"], output.duration(w["uptime"]), note])
    for p in data["programs"]:
        name = f"program:{p['name']}"
        rows.append([name, p["state"], p["pid"], output.duration(p["uptime"]), p["description"]])
    output.table(("PROCESS", "STATE", "PID", "UPTIME", "NOTE"), rows, header)
    click.echo()
    _print_endpoints(data, header)
    files = [(f, "mepd.conf") for f in m.get("files", ())]
    files += [(f, e["name"]) for e in data["endpoints"] for f in e.get("files", ())]
    if files:
        click.echo()
        rows = [[of, f["version"], output.moment(f["since"]), f["path"], f["error"]]
                for f, of in files]  # fmt: skip
        output.table(("FILE OF", "VERSION", "SINCE", "PATH", "ERROR"), rows, header)


def _print_endpoints(data: dict[str, Any], header: bool) -> None:
    output.table(
        ("ENDPOINT", "ID", "STATE", "UEPS", "STARTS", "FAILURES", "NOTE"),
        [
            [
                e["name"], e["id"], _state(e), e["ueps"],
                e["starts"], e["failures"], e["reason"],
            ]
            for e in data["endpoints"]
        ],
        header,
    )  # fmt: skip


def _state(e: dict[str, Any]) -> str:
    if e.get("draining"):
        return "draining"
    return "online" if e["online"] else "offline"


@click.command("list")
@click.option("--user", help="Only the user endpoints of this account.")
@click.option("--endpoint", help="Only those of this endpoint.")
@json_option
@header_option
@click.pass_obj
def list_(
    target: Target, user: str | None, endpoint: str | None, as_json: bool, no_header: bool
) -> None:
    """List the user endpoints.

    Other accounts than root and the group of the control socket see only their own.
    """
    filters = {k: v for k, v in (("user", user), ("endpoint", endpoint)) if v is not None}
    data = target.call("list", **filters)
    if as_json:
        output.print_json(data)
        return
    header = ("USER", "ID", "PID", "STATE", "UPTIME", "RUN", "DONE", "IDLE", "%CPU", "RSS")
    output.table(header, [_row(u) for u in data["ueps"]], not no_header)


def _row(u: dict[str, Any]) -> list[Any]:
    idle = "-" if u["idle"] is None else f"{u['idle']}/{u['soft']}" if u["soft"] else str(u["idle"])
    return [
        u["user"] or "?", u["id"][:8], u["pid"], u["state"], output.duration(u["uptime"]),
        u["running"], u["done"], idle, u["cpu"], output.size(u["rss"]),
    ]  # fmt: skip


@click.command("version")
@click.pass_obj
def version_(target: Target) -> None:
    """Print the versions."""
    click.echo(f"mepctl {mepd.__version__}")
    try:
        click.echo(f"mepd {target.call('version')['version']}")
    except NotRunning:
        click.echo("mepd is not running")
