"""What mepctl is shown: the data of status and list. Field names are a contract."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Any

import mepd
from mepd.master.endpoints import Endpoint
from mepd.master.filebook import FileBook
from mepd.master.programs import Program
from mepd.master.statistics import TreeUse
from mepd.master.table import Uep
from mepd.master.workers import Worker


def master(
    started: float, now: float, state: str, config: str, files: FileBook
) -> dict[str, Any]:
    return {
        "pid": os.getpid(),
        "uptime": round(now - started, 1),
        "version": mepd.__version__,
        "state": state,
        "config": config,
        "files": files.view(),
    }


def worker(w: Worker, now: float) -> dict[str, Any]:
    return {
        "name": w.name,
        "pid": w.process.pid if w.process else None,
        "state": w.state.value,
        "uptime": round(now - w.since, 1),
        "restarts": w.restarts,
    }


def program(p: Program, now: float) -> dict[str, Any]:
    return {
        "name": p.section.name,
        "pid": p.process.pid if p.process else None,
        "state": p.state.value,
        "uptime": round(now - p.since, 1),
        "description": p.description,
    }


def endpoint(e: Endpoint, ueps: Iterable[Uep]) -> dict[str, Any]:
    return {
        "name": e.name,
        "id": e.endpoint_id,
        "online": e.online,
        "ueps": sum(1 for u in ueps if u.endpoint == e.name),
        "starts": e.starts,
        "failures": e.failures,
        "draining": e.draining,
        "reason": _why(e),
        "files": e.files.view(),
    }


def _why(e: Endpoint) -> str:
    if e.draining:
        return "no longer configured: waits for its user endpoints"
    return e.files.error or ("" if e.online else e.reason)


def for_anybody(status: dict[str, Any]) -> dict[str, Any]:
    """A status without the configuration files, their hashes and their errors."""
    own = {**status["master"], "files": []}
    endpoints = []
    for e in status["endpoints"]:
        hidden = any(f["error"] for f in e["files"]) and not e["draining"]
        reason = "its configuration has an error" if hidden else e["reason"]
        endpoints.append({**e, "files": [], "reason": reason})
    return {**status, "master": own, "endpoints": endpoints}


def uep(u: Uep, now: float, use: TreeUse | None) -> dict[str, Any]:
    """One line of mepctl list; ``idle`` is in heartbeats of the UEP's own, of ``soft``."""
    a = u.activity
    idle = None
    if a is not None and not a.outstanding and a.heartbeat_period > 0:
        idle = int((a.last_move + now - u.reported) / a.heartbeat_period)
    return {
        "user": u.user,
        "uid": u.uid,
        "id": u.request.uep_id,
        "name": u.name,
        "endpoint": u.endpoint,
        "pid": u.process.pid,
        "state": u.state.value,
        "uptime": round(now - u.started, 1),
        "running": a.outstanding if a else 0,
        "done": a.done if a else 0,
        "idle": idle,
        "soft": a.soft if a else None,
        "cpu": use.cpu if use else None,
        "rss": use.rss if use else None,
    }
