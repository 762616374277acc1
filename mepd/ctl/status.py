"""mepctl status, version and whoami: what runs, and who asks."""

from __future__ import annotations

from typing import Any

import click

import mepd
from mepd.ctl import complete, output
from mepd.ctl.client import NotRunning
from mepd.ctl.main import Target, explain, say
from mepd.ctl.output import Printer
from mepd.errors import MepdError

LSB_RUNNING, LSB_NOT_RUNNING, LSB_UNKNOWN = 0, 3, 4
_GOOD = ("RUNNING", "online")


@click.command("status")
@click.argument("name", required=False, shell_complete=complete.services)
@output.printed
@click.pass_obj
def status_(target: Target, out: Printer, name: str | None) -> int:
    """Show what runs.

    The master, its workers, programs and endpoints, or only NAME of them. The exit code is
    that of an LSB init script: 0 running, 3 not running, 4 unknown.
    """
    try:
        data = target.call("status")
    except NotRunning as e:
        say(str(e))
        return LSB_NOT_RUNNING
    except (MepdError, OSError) as e:
        say(explain(e) if isinstance(e, OSError) else str(e))
        return LSB_UNKNOWN
    try:
        return _show(data, out, name)
    except MepdError as e:  # an answer that lacks something
        say(str(e))
        return LSB_UNKNOWN


def _show(data: dict[str, Any], out: Printer, name: str | None) -> int:
    """Print a status, or of it what ``name`` means; returns the exit code."""
    if name is None:
        out.show(data, lambda: _print_status(data, out))
        return LSB_RUNNING
    found = only(data, name)
    states = [x["state"] for x in (*found["processes"], *found["endpoints"])]
    if not states:
        say(f"nothing is called {name!r}; see mepctl status")
        return LSB_UNKNOWN
    chosen = {k: found[k] for k in data}
    out.show(chosen, lambda: _print_status(chosen, out))
    return LSB_RUNNING if all(s in _GOOD for s in states) else LSB_NOT_RUNNING


def only(data: dict[str, Any], word: str) -> dict[str, Any]:
    """The parts of a status that a name means; ``processes`` are those with a pid."""
    kind, colon, name = word.partition(":")
    if not colon or kind not in ("program", "endpoint"):
        kind, name = "", word

    def of(key: str, wanted: str) -> list[Any]:
        return [x for x in data[key] if kind in ("", wanted) and x["name"] == name]

    found: dict[str, Any] = {
        "master": data["master"] if word == "master" else None,
        "workers": of("workers", "worker"),
        "programs": of("programs", "program"),
        "endpoints": [
            e for e in data["endpoints"]
            if kind in ("", "endpoint") and name in (e["name"], e["id"])
        ],
    }  # fmt: skip
    master = [found["master"]] if found["master"] else []
    found["processes"] = [*master, *found["workers"], *found["programs"]]
    return found


def _print_status(data: dict[str, Any], out: Printer) -> None:
    m = data["master"]
    rows: list[list[Any]] = []
    if m:
        rows.append(
            ["master", m["state"], m["pid"], output.duration(m["uptime"]), f"mepd {m['version']}"]
        )
    for w in data["workers"]:
        note = f"{w['restarts']} restarts" if w["restarts"] else ""
        rows.append([w["name"], w["state"], w["pid"], output.duration(w["uptime"]), note])
    for p in data["programs"]:
        name = f"program:{p['name']}"
        rows.append([name, p["state"], p["pid"], output.duration(p["uptime"]), p["description"]])
    files = [(f, "mepd.conf") for f in (m or {}).get("files", ())]
    files += [(f, e["name"]) for e in data["endpoints"] for f in e.get("files", ())]
    parts: list[tuple[tuple[str, ...], list[list[Any]]]] = []
    if rows:
        parts.append((("PROCESS", "STATE", "PID", "UPTIME", "NOTE"), rows))
    if data["endpoints"] or m:
        parts.append((_ENDPOINT, [_endpoint(e) for e in data["endpoints"]]))
    if files:
        rows = [[of, f["version"], output.moment(f["since"]), f["path"], f["error"]]
                for f, of in files]  # fmt: skip
        parts.append((("FILE OF", "VERSION", "SINCE", "PATH", "ERROR"), rows))
    for number, (header, lines) in enumerate(parts):
        if number:
            click.echo()
        out.table(header, lines)


_ENDPOINT = ("ENDPOINT", "ID", "STATE", "BROKER", "UEPS", "STARTS", "FAILURES", "NOTE")


def _endpoint(e: dict[str, Any]) -> list[Any]:
    broker = "connected" if e["connected"] else "-"
    return [e["name"], e["id"], e["state"], broker, e["ueps"], e["starts"], e["failures"],
            e["reason"]]  # fmt: skip


@click.command("version")
@output.printed
@click.pass_obj
def version_(target: Target, out: Printer) -> None:
    """Print the versions."""
    data: dict[str, Any] = {"mepctl": mepd.__version__, "mepd": None}
    try:
        data["mepd"] = target.call("version")["version"]
    except NotRunning:
        pass

    def draw() -> None:
        click.echo(f"mepctl {data['mepctl']}")
        click.echo(f"mepd {output.cell(data['mepd'])}" if data["mepd"] else "mepd is not running")

    out.show(data, draw)


@click.command("whoami")
@output.printed
@click.pass_obj
def whoami_(target: Target, out: Printer) -> None:
    """Show as whom mepd knows you, and what you may do.

    To who can read the configuration also the service, and the client that registers the
    endpoints there.
    """
    from mepd.ctl import identity

    data = identity.of(target.call("whoami"), target)

    def draw() -> None:
        rights = "everything" if data["administrator"] else "your own user endpoints"
        rows = [
            ["account", f"{data['user']} (uid {data['uid']})"],
            ["may see and end", rights],
            ["user endpoints", str(data["ueps"])],
            ["service", data["service"]],
            ["client", data["client"]],
        ]
        out.table(("WHO", "VALUE"), rows)

    out.show(data, draw)
