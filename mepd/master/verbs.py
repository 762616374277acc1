"""The verbs of the control protocol: a closed table, each with who may use it.

Root and the members of the group of ``[control] chown`` may everything; any other user
sees and kills only their own UEPs.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import mepd
from mepd.errors import ControlError
from mepd.master import statistics, views
from mepd.master.stopping import Stopper
from mepd.master.table import Uep, UepTable
from mepd.posix.peer import Peer

_SIGNALS = ("TERM", "INT", "QUIT", "HUP", "USR1", "USR2", "STOP", "CONT", "KILL")


class Commander(Protocol):
    """What the verbs need of the master."""

    table: UepTable
    stopper: Stopper

    def now(self) -> float: ...

    def status(self) -> dict[str, Any]: ...

    def reload(self) -> None: ...

    def shutdown(self, signum: int) -> None: ...

    def start_endpoint(self, name: str, directory: Path) -> None: ...


def is_administrator(peer: Peer, group: int | None) -> bool:
    """Whether the peer is root or in the administrators' group."""
    if peer.uid in (0, os.geteuid()):
        return True
    return group is not None and group in (peer.gid, *peer.groups)


def _text(args: dict[str, Any], key: str, default: str | None = None) -> str | None:
    value = args.get(key, default)
    if value is not None and not isinstance(value, str):
        raise ControlError(f"{key} must be a string", os.EX_USAGE)
    return value


def _known(args: dict[str, Any], *names: str) -> None:
    unknown = sorted(args.keys() - set(names))
    if unknown:
        raise ControlError(f"unknown argument {unknown[0][:40]!r}", os.EX_USAGE)


class Verbs:
    """Dispatches requests; every verb is named here and nowhere else."""

    def __init__(self, commander: Commander, group: int | None) -> None:
        self._c = commander
        self._group = group
        self._table: dict[str, tuple[bool, Callable[[Peer, bool, dict[str, Any]], Any]]] = {
            # verb: (administrators only, handler)
            "version": (False, self._version),
            "status": (False, self._status),
            "list": (False, self._list),
            "kill": (False, self._kill),
            "reload": (True, self._reload),
            "shutdown": (True, self._shutdown),
            "start": (True, self._start),
        }

    def handle(self, peer: Peer, verb: str, args: dict[str, Any]) -> Any:
        """Raises ControlError."""
        if verb not in self._table:
            raise ControlError(f"unknown verb {verb[:40]!r}", os.EX_USAGE)
        restricted, handler = self._table[verb]
        administrator = is_administrator(peer, self._group)
        if restricted and not administrator:
            raise ControlError(f"{verb}: only root and administrators may", os.EX_NOPERM)
        return handler(peer, administrator, args)

    def _version(self, _peer: Peer, _administrator: bool, args: dict[str, Any]) -> Any:
        _known(args)
        return {"version": mepd.__version__}

    def _status(self, _peer: Peer, administrator: bool, args: dict[str, Any]) -> Any:
        """What a configuration holds, be it as a hash or in an error, is not for all."""
        _known(args)
        return self._c.status() if administrator else views.for_anybody(self._c.status())

    def _visible(self, peer: Peer, administrator: bool, args: dict[str, Any]) -> list[Uep]:
        user, endpoint = _text(args, "user"), _text(args, "endpoint")
        return [
            u
            for u in self._c.table
            if (administrator or u.uid == peer.uid)
            and (user is None or u.user == user)
            and (endpoint is None or u.endpoint == endpoint)
        ]

    def _list(self, peer: Peer, administrator: bool, args: dict[str, Any]) -> Any:
        _known(args, "user", "endpoint")
        ueps = self._visible(peer, administrator, args)
        use = statistics.measure(u.process.pid for u in ueps) if ueps else {}
        now = self._c.now()
        rows = [views.uep(u, now, use.get(u.process.pid)) for u in ueps]
        return {"ueps": sorted(rows, key=lambda r: (r["user"], r["name"]))}

    def _kill(self, peer: Peer, administrator: bool, args: dict[str, Any]) -> Any:
        _known(args, "targets", "signal", "now", "user", "all", "endpoint")
        targets = args.get("targets", [])
        if not isinstance(targets, list) or not all(isinstance(t, str) and t for t in targets):
            raise ControlError("targets must be a list of strings", os.EX_USAGE)
        name = (_text(args, "signal", "TERM") or "TERM").upper().removeprefix("SIG")
        if name not in _SIGNALS:
            raise ControlError(f"unknown signal {name[:20]!r}", os.EX_USAGE)
        visible = self._visible(peer, administrator, args)
        chosen = visible if _all(args) else _choose(visible, targets)
        for u in chosen:
            self._end(u, name, args.get("now") is True, peer)
        return {
            "killed": [
                {"id": u.request.uep_id, "pid": u.process.pid, "user": u.user, "signal": name}
                for u in chosen
            ]
        }

    def _end(self, u: Uep, name: str, now: bool, peer: Peer) -> None:
        reason = f"mepctl kill by uid {peer.uid}"
        if now or name == "KILL":
            self._c.stopper.kill(u, reason)
        elif name in ("TERM", "INT", "QUIT"):
            self._c.stopper.stop(u, reason, getattr(signal, f"SIG{name}"))
        else:
            self._c.stopper.signal(u, getattr(signal, f"SIG{name}"), reason)

    def _reload(self, _peer: Peer, _administrator: bool, args: dict[str, Any]) -> Any:
        _known(args)
        self._c.reload()
        return {}

    def _start(self, _peer: Peer, _administrator: bool, args: dict[str, Any]) -> Any:
        _known(args, "name", "directory")
        name, directory = _text(args, "name"), _text(args, "directory")
        if not name or not directory or not directory.startswith("/"):
            raise ControlError("start needs a name and an absolute directory", os.EX_USAGE)
        self._c.start_endpoint(name, Path(directory))
        return {}

    def _shutdown(self, _peer: Peer, _administrator: bool, args: dict[str, Any]) -> Any:
        _known(args)
        self._c.shutdown(signal.SIGTERM)
        return {}


def _all(args: dict[str, Any]) -> bool:
    """All that are visible, or all of one user when no target is named."""
    return args.get("all") is True or (bool(args.get("user")) and not args.get("targets"))


def _choose(visible: list[Uep], targets: list[str]) -> list[Uep]:
    """The UEPs that the targets name: a pid, a name, or an unambiguous prefix of an id."""
    if not targets:
        raise ControlError("name a user endpoint, or say --user or --all", os.EX_USAGE)
    chosen: list[Uep] = []
    for target in targets:
        found = [
            u
            for u in visible
            if target == str(u.process.pid)
            or target == u.name
            or (len(target) >= 2 and u.request.uep_id.startswith(target.lower()))
        ]
        if not found:
            raise ControlError(f"no user endpoint matches {target[:80]!r}", os.EX_UNAVAILABLE)
        chosen += [u for u in found if u not in chosen]
    return chosen
