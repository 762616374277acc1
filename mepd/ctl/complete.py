"""Words for the shell to complete; without mepd there are none, and never an error."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import click

from mepd.ctl.main import Target
from mepd.errors import MepdError

Completer = Callable[[click.Context, click.Parameter, str], list[str]]
_PATIENCE_S = 1.0


def _ask(ctx: click.Context, verb: str) -> dict[str, Any]:
    from mepd.ctl import client

    target = ctx.obj if isinstance(ctx.obj, Target) else Target(None, None)
    root = ctx.find_root().params
    if ctx.obj is None:
        target = Target(root.get("configuration"), root.get("socket_"))
    try:
        data: dict[str, Any] = client.call(target.socket_path(), verb, _PATIENCE_S)
    except (MepdError, OSError):
        return {}
    return data


def ueps(ctx: click.Context, _parameter: click.Parameter, incomplete: str) -> list[str]:
    """Ids of user endpoints; names where a name was begun."""
    key = "name" if incomplete.startswith("uep.") else "id"
    return [u[key] for u in _ask(ctx, "list").get("ueps", ()) if u[key].startswith(incomplete)]


def logs(ctx: click.Context, parameter: click.Parameter, incomplete: str) -> list[str]:
    words = [w for w in ("master",) if w.startswith(incomplete)]
    return words + ueps(ctx, parameter, incomplete)


def endpoints(ctx: click.Context, _parameter: click.Parameter, incomplete: str) -> list[str]:
    found = [e["name"] for e in _ask(ctx, "status").get("endpoints", ())]
    return [name for name in found if name.startswith(incomplete)]


def services(ctx: click.Context, _parameter: click.Parameter, incomplete: str) -> list[str]:
    """Endpoints and programs."""
    status = _ask(ctx, "status")
    found = [x["name"] for key in ("endpoints", "programs") for x in status.get(key, ())]
    return [name for name in found if name.startswith(incomplete)]


def words(known: Sequence[str]) -> Completer:
    """One of a closed set."""

    def complete(_ctx: click.Context, _parameter: click.Parameter, incomplete: str) -> list[str]:
        return [word for word in known if word.lower().startswith(incomplete.lower())]

    return complete
