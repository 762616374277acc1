"""The verbs that end user endpoints."""

from __future__ import annotations

import os
import signal
from typing import Any, Protocol

from mepd.errors import ControlError
from mepd.master import targets
from mepd.master.asking import Caller, Verb, flag, number, text, texts, wanted
from mepd.master.stopping import BY_HAND, Stopper
from mepd.master.table import Uep, UepTable

SIGNALS = ("TERM", "INT", "QUIT", "HUP", "USR1", "USR2", "STOP", "CONT", "KILL")


class Commander(Protocol):
    """What acting needs of the master."""

    table: UepTable
    stopper: Stopper


class Acting:
    def __init__(self, commander: Commander) -> None:
        self._c = commander

    def table(self) -> dict[str, Verb]:
        filters = ("user", "endpoint")
        kill = ("targets", "signal", "now", "all", "ambiguous", "dry_run", *filters)
        return {
            "kill": Verb(self._kill, kill),
            "reap": Verb(self._reap, ("dry_run", "idle", *filters)),
        }

    def _visible(self, caller: Caller, args: dict[str, Any]) -> list[Uep]:
        return [u for u in filter(wanted(args), self._c.table) if caller.owns(u.uid)]

    def _kill(self, caller: Caller, args: dict[str, Any]) -> Any:
        name = signal_name(text(args, "signal") or "TERM")
        if flag(args, "now"):
            name = "KILL"
        chosen = self._chosen(caller, args)
        if not flag(args, "dry_run"):
            self._end(chosen, name, f"{BY_HAND} {caller.reason}")
        return {"killed": [{**_who(u), "signal": name} for u in chosen]}

    def _chosen(self, caller: Caller, args: dict[str, Any]) -> list[Uep]:
        """All that are visible, all of one user or endpoint, or what the targets name."""
        visible, named = self._visible(caller, args), texts(args, "targets")
        everything = flag(args, "all")
        if named:
            if everything:
                raise ControlError("name targets or say all, not both", os.EX_USAGE)
            return targets.choose(visible, named, flag(args, "ambiguous"))
        if everything or text(args, "user") or text(args, "endpoint"):
            return visible
        raise ControlError("name a user endpoint, or say --user or --all", os.EX_USAGE)

    def _end(self, chosen: list[Uep], name: str, reason: str) -> None:
        if name == "KILL":
            self._c.stopper.kill_all(chosen, reason)
            return
        for u in chosen:
            if name in ("TERM", "INT", "QUIT"):
                self._c.stopper.stop(u, reason, getattr(signal, f"SIG{name}"))
            else:
                self._c.stopper.signal(u, getattr(signal, f"SIG{name}"), reason)

    def _reap(self, caller: Caller, args: dict[str, Any]) -> Any:
        """What has been idle for as long as its own limits, or ``idle`` seconds, allow."""
        passes = wanted(args)
        found = [
            (u, f"{reason}, mepctl reap {caller.reason}", reason)
            for u, reason in self._c.stopper.reapable(0, number(args, "idle"))
            if caller.owns(u.uid) and passes(u)
        ]
        if not flag(args, "dry_run"):
            for u, logged, _ in found:
                self._c.stopper.reap(u, logged)
        return {"reaped": [{**_who(u), "reason": reason} for u, _, reason in found]}


def _who(u: Uep) -> dict[str, Any]:
    return {"id": u.request.uep_id, "name": u.name, "pid": u.process.pid, "user": u.user}


def signal_name(text: str) -> str:
    """``TERM`` of ``SIGTERM``, ``term`` or ``15``. Raises ControlError."""
    name = text.upper().removeprefix("SIG")
    if name.isascii() and name.isdigit() and int(name) in signal.valid_signals():
        name = signal.Signals(int(name)).name.removeprefix("SIG")
    if name not in SIGNALS:
        known = ", ".join(SIGNALS)
        raise ControlError(f"signal {text[:20]!r} cannot be sent; known are {known}", os.EX_USAGE)
    return name
