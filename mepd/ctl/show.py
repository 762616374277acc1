"""mepctl show: everything that is known of one user endpoint."""

from __future__ import annotations

from typing import Any

import click

from mepd.ctl import complete, events, output, usage
from mepd.ctl.main import Target
from mepd.ctl.output import Printer

_HIDDEN = ("events", "processes", "failure", "created", "uid", "cpu", "rss", "soft", "hard")


@click.command("show")
@click.argument("target_", metavar="TARGET", shell_complete=complete.ueps)
@output.printed
@click.pass_obj
def show_(target: Target, out: Printer, target_: str) -> None:
    """Show everything known of one user endpoint.

    TARGET is a pid, or the beginning of an id or a name.
    """
    data = target.call("show", target=target_)
    root = (data["pid"], data["created"])
    use = usage.measure([root]).get(data["pid"])
    data["cpu"] = use.cpu() if use else None
    data["rss"] = use.rss if use else None
    data["processes"] = usage.tree(root)
    out.show(data, lambda: _draw(data, out))


def _value(key: str, data: dict[str, Any]) -> Any:
    value = data[key]
    if key in ("uptime", "reported", "last_move") and value is not None:
        return output.duration(value)
    if isinstance(value, bool):
        return "yes" if value else "no"
    return ", ".join(map(str, value)) if isinstance(value, list) else value


def _rows(data: dict[str, Any]) -> list[list[Any]]:
    rows = [[k.replace("_", " "), _value(k, data)] for k in data if k not in _HIDDEN]
    cpu = None if data["cpu"] is None else f"{data['cpu']}% of one processor"
    rows += [["uid", str(data["uid"])], ["cpu", cpu], ["rss", output.size(data["rss"])]]
    limits = [str(data[k]) if data[k] is not None else "-" for k in ("soft", "hard")]
    rows.append(["idle heartbeats soft, hard", ", ".join(limits)])
    last = data["failure"]
    if last:
        when = output.moment(last["time"])
        rows.append(["last failure", f"{when} {last['stage']} ({last['code']}): {last['reason']}"])
    return rows


def _draw(data: dict[str, Any], out: Printer) -> None:
    out.table(("FIELD", "VALUE"), [[k, None if v is None else str(v)] for k, v in _rows(data)])
    if data["processes"]:
        click.echo()
        out.table(
            ("PID", "PPID", "STATE", "THREADS", "CPU", "RSS", "COMMAND"),
            [
                [p["pid"], p["ppid"], p["state"], p["threads"],
                 output.duration(p["cpu_seconds"]), output.size(p["rss"]), p["command"]]
                for p in data["processes"]
            ],
        )  # fmt: skip
    if data["events"]:
        click.echo()
        out.table(events.EVENT_HEADER, [events.event_row(e) for e in data["events"]])
