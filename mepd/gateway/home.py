"""What a person who is signed in sees: endpoints, his user endpoints and tasks."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Row, select

from mepd.gateway import registry
from mepd.gateway.accounts import Caller
from mepd.gateway.failures import ApiError
from mepd.gateway.login.pages import esc
from mepd.gateway.policy import enforce
from mepd.gateway.policy.enforce import PolicyCache
from mepd.gateway.schema import DONE, SENT, STORED, endpoints, tasks, ueps

ENDPOINTS_MAX = 500
TASKS_MAX = 25
UEPS_SHOWN = 5

_SHOWN = [
    endpoints.c[name]
    for name in (
        *("id", "name", "display_name", "owner", "admins"),
        *("multi_user", "public", "authentication_policy"),
    )
]
"""Of all endpoints that there are; their other columns may be large."""
_STATES = {STORED: "waiting", SENT: "at the user endpoint", DONE: "finished"}


@dataclass(frozen=True)
class View:
    """Rows for the page; ``ueps`` by endpoint are the person's own."""

    endpoints: Sequence[Row[Any]]
    ueps: dict[str, list[str]]
    tasks: Sequence[Any]


def _is_shown(tx: Connection, cache: PolicyCache, row: Row[Any], caller: Caller) -> bool:
    if registry.may_manage(row, caller.identity_id):
        return True
    if not registry.may_see(row, caller.identity_id):
        return False
    try:
        enforce.check(tx, cache, row, caller)
    except ApiError:
        return False
    return True


def view(tx: Connection, caller: Caller, cache: PolicyCache) -> View:
    """What the caller may see. Endpoints by name, tasks with the newest first."""
    query = select(*_SHOWN).where(endpoints.c.deleted.is_(False))
    rows = tx.execute(query.order_by(endpoints.c.name, endpoints.c.id)).all()
    visible = (row for row in rows if _is_shown(tx, cache, row, caller))
    shown = list(itertools.islice(visible, ENDPOINTS_MAX))
    mine: dict[str, list[str]] = {}
    own = select(ueps.c.id, ueps.c.endpoint_id).where(ueps.c.identity_id == caller.identity_id)
    for row in tx.execute(own.order_by(ueps.c.created.desc())):
        mine.setdefault(row.endpoint_id, []).append(row.id)
    recent = select(tasks.c.id, tasks.c.endpoint_id, tasks.c.state, tasks.c.created)
    recent = recent.where(tasks.c.owner == caller.identity_id)
    newest = tx.execute(recent.order_by(tasks.c.created.desc()).limit(TASKS_MAX)).all()
    return View(shown, mine, newest)


def _table(caption: str, heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """The first cell of a row is its heading. Cells are HTML."""
    head = "".join(f'<th scope="col">{esc(text)}</th>' for text in heads)
    lines = [
        f'<tr><th scope="row">{row[0]}</th>' + "".join(f"<td>{c}</td>" for c in row[1:]) + "</tr>"
        for row in rows
    ]
    return (
        f"<table>\n<caption>{esc(caption)}</caption>\n<thead><tr>{head}</tr></thead>\n"
        f"<tbody>\n{chr(10).join(lines)}\n</tbody>\n</table>"
    )


def _ueps(idents: list[str], online: Callable[[str], bool]) -> str:
    running = [ident for ident in idents if online(ident)]
    if not running:
        return "none"
    more = len(running) - UEPS_SHOWN
    text = "<br>".join(f"<code>{esc(ident)}</code>" for ident in running[:UEPS_SHOWN])
    return f"{text}<br>and {more} more" if more > 0 else text


def _endpoints(found: View, online: Callable[[str], bool]) -> str:
    if not found.endpoints:
        return "<p>There is no endpoint that you may see.</p>"
    rows = [
        (
            f"{esc(row.display_name or row.name)}<br><code>{esc(row.id)}</code>",
            "online" if online(row.id) else "offline",
            _ueps(found.ueps.get(row.id, []), online),
        )
        for row in found.endpoints
    ]
    return _table("Endpoints", ("Endpoint", "State", "Your running user endpoints"), rows)


def _tasks(found: View) -> str:
    if not found.tasks:
        return "<p>You have no tasks.</p>"
    names = {row.id: row.display_name or row.name for row in found.endpoints}
    rows = [
        (
            f"<code>{esc(row.id)}</code>",
            esc(names.get(row.endpoint_id, row.endpoint_id)),
            _STATES[row.state],
            time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(row.created)),
        )
        for row in found.tasks
    ]
    return _table("Your recent tasks", ("Task", "Endpoint", "State", "Submitted"), rows)


def body(found: View, username: str, online: Callable[[str], bool], sign_out: str) -> str:
    """The page's HTML below its heading; ``sign_out`` is a form."""
    return (
        f"<p>You are signed in as <strong>{esc(username)}</strong>.</p>\n"
        f"<h2>Endpoints</h2>\n{_endpoints(found, online)}\n"
        f"<h2>Tasks</h2>\n{_tasks(found)}\n{sign_out}"
    )
