"""What mepctl is shown: the data of status and list. Field names are a contract."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Any

import mepd
from mepd.master.endpoints import Endpoint
from mepd.master.filebook import FileBook
from mepd.master.history import Entry
from mepd.master.programs import Program
from mepd.master.table import Uep
from mepd.master.workers import Worker
from mepd.posix import process


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
        "state": e.state,
        "online": e.online and e.registered and not e.draining,
        "connected": e.online,
        "ueps": sum(1 for u in ueps if u.endpoint == e.name),
        "starts": e.starts,
        "failures": e.failures,
        "draining": e.draining,
        "reason": _why(e),
        "files": e.files.view(),
    }


def _why(e: Endpoint) -> str:
    if e.stopped:
        return "stopped by mepctl; mepctl start serves it again"
    if e.held:
        return "drained by mepctl: waits for its user endpoints"
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


def uep(u: Uep, now: float, last_failure: dict[str, Any] | None) -> dict[str, Any]:
    """One line of mepctl list; ``idle`` is in heartbeats of the UEP's own, of ``soft``.

    ``created`` and ``pid`` are the process's identity: mepctl measures what it uses.
    """
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
        "created": round(process.since_epoch(u.process.created), 2),
        "state": u.state.value,
        "uptime": round(now - u.started, 1),
        "running": a.outstanding if a else 0,
        "done": a.done if a else 0,
        "idle": idle,
        "soft": a.soft if a else None,
        "failure": last_failure,
    }


def details(u: Uep, now: float) -> dict[str, Any]:
    """What mepctl show adds. Of the request's options only the names: values are the user's."""
    a, request = u.activity, u.request
    python = request.user_runtime.get("python_version")
    return {
        "endpoint_id": request.mep_id,
        "command": u.command,
        "parent_pid": u.child.pid if u.child.pid != u.process.pid else os.getpid(),
        "session_pid": u.child.pid if u.child.pid != u.process.pid else None,
        "identity": request.effective_identity,
        "username": request.username,
        "identities": [str(i.get("username")) for i in request.identity_set],
        "options": sorted(request.user_opts),
        "python": str(python) if python else None,
        "reports": u.reports,
        "reported": round(now - u.reported, 1) if a else None,
        "received": a.received if a else 0,
        "last_move": round(a.last_move + now - u.reported, 1) if a else None,
        "hard": a.hard if a else None,
        "heartbeat_period": a.heartbeat_period if a else None,
        "stop_reason": u.stop_reason,
        "waiting_requests": len(u.tokens),
    }


def entry(e: Entry, administrator: bool) -> dict[str, Any]:
    """One event or failure; who is no administrator is told what the user was told."""
    return {
        "time": e.time,
        "event": e.kind.value,
        "endpoint": e.endpoint,
        "user": e.user,
        "uid": e.uid if e.uid >= 0 else None,
        "id": e.id,
        "name": e.name,
        "pid": e.pid,
        "username": e.username,
        "stage": e.stage,
        "code": e.code,
        "seconds": e.seconds,
        "reason": e.reason if administrator else e.public,
    }


def failure(e: Entry | None, administrator: bool) -> dict[str, Any] | None:
    """The last failure of a UEP of this name."""
    if e is None:
        return None
    reason = e.reason if administrator else e.public
    return {"time": e.time, "stage": e.stage, "code": e.code, "reason": reason}
