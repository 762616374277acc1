"""The verbs that look and change nothing."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from typing import Any, Protocol

import mepd
from mepd.config.settings import Settings
from mepd.errors import ControlError
from mepd.master import targets, views
from mepd.master.asking import Caller, Verb, flag, needed, text, wanted
from mepd.master.history import Entry, History
from mepd.master.later import Stream
from mepd.master.table import Uep, UepTable


class Commander(Protocol):
    """What looking needs of the master."""

    table: UepTable
    history: History

    def now(self) -> float: ...

    def status(self) -> dict[str, Any]: ...

    def settings(self) -> Settings: ...


class Looking:
    """Everybody sees what is theirs; the rest is the administrators'."""

    def __init__(self, commander: Commander) -> None:
        self._c = commander

    def table(self) -> dict[str, Verb]:
        return {
            "version": Verb(self._version),
            "whoami": Verb(self._whoami),
            "status": Verb(self._status),
            "list": Verb(self._list, ("user", "endpoint", "states")),
            "show": Verb(self._show, ("target",)),
            "log": Verb(self._log, ("target",)),
            "events": Verb(self._events, ("follow", "user", "endpoint")),
            "failures": Verb(self._failures, ("user", "endpoint")),
        }

    def _version(self, _caller: Caller, _args: dict[str, Any]) -> Any:
        return {"version": mepd.__version__}

    def _whoami(self, caller: Caller, _args: dict[str, Any]) -> Any:
        return {
            "uid": caller.peer.uid,
            "gid": caller.peer.gid,
            "pid": caller.peer.pid,
            "administrator": caller.administrator,
            "ueps": sum(1 for u in self._c.table if u.uid == caller.peer.uid),
        }

    def _status(self, caller: Caller, _args: dict[str, Any]) -> Any:
        """What a configuration holds, be it as a hash or in an error, is not for all."""
        status = self._c.status()
        return status if caller.administrator else views.for_anybody(status)

    def visible(self, caller: Caller) -> list[Uep]:
        return [u for u in self._c.table if caller.owns(u.uid)]

    def _list(self, caller: Caller, args: dict[str, Any]) -> Any:
        now = self._c.now()
        ueps = filter(wanted(args), self.visible(caller))
        rows = [self._row(caller, u, now) for u in ueps]
        return {"ueps": sorted(rows, key=lambda r: (r["user"], r["name"]))}

    def _row(self, caller: Caller, u: Uep, now: float) -> dict[str, Any]:
        last = self._c.history.last_failure(u.name)
        if last is not None and not (caller.administrator or last.uid == u.uid):
            last = None
        return views.uep(u, now, views.failure(last, caller.administrator))

    def _show(self, caller: Caller, args: dict[str, Any]) -> Any:
        u = targets.one(self.visible(caller), needed(args, "target"))
        now = self._c.now()
        events = [e for e in self._c.history.events() if e.name == u.name]
        return {
            **self._row(caller, u, now),
            **views.details(u, now),
            "events": self._views(caller, events),
        }

    def _log(self, caller: Caller, args: dict[str, Any]) -> Any:
        """Where a log is, and whose: reading it is the caller's business, as that user."""
        target = text(args, "target")
        if target is None:
            return {"path": _own_log(self._c.settings()), "user": None, "name": "master"}
        found = targets.Index(self.visible(caller)).fitting(target)
        names = {u.name: u.user for u in found}
        begins = target.lower() if len(target) >= targets.PREFIX_MIN else None
        for e in self._c.history.events():
            if begins is None or e.uid < 0 or not caller.owns(e.uid):
                continue
            if e.id.startswith(begins) or e.name.startswith(begins):
                names.setdefault(e.name, e.user)
        name, user = _only(target, names)
        return {"path": None, "user": user, "name": name}

    def _views(self, caller: Caller, entries: Iterable[Entry]) -> list[dict[str, Any]]:
        return [views.entry(e, caller.administrator) for e in entries if caller.owns(e.uid)]

    def _failures(self, caller: Caller, args: dict[str, Any]) -> Any:
        found = filter(_filter(args), self._c.history.failures())
        return {"failures": self._views(caller, found)}

    def _events(self, caller: Caller, args: dict[str, Any]) -> Any:
        passes = _filter(args)
        first = self._views(caller, filter(passes, self._c.history.events()))
        if not flag(args, "follow"):
            return {"events": first}

        def begin(send: Callable[[Any], None]) -> Callable[[], None]:
            def heard(e: Entry) -> None:
                if passes(e) and caller.owns(e.uid):
                    send({"events": [views.entry(e, caller.administrator)]})

            return self._c.history.listen(heard)

        return Stream([{"events": first}], begin)


def _own_log(settings: Settings) -> str:
    """The file of mepd's own log. Raises ControlError if it goes elsewhere."""
    if "file" not in settings.mepd.log_to:
        where = ", ".join(settings.mepd.log_to)
        raise ControlError(
            f"mepd logs to {where}, not to a file; see journalctl -u mepd", os.EX_UNAVAILABLE
        )
    return str(settings.mepd.logfile)


def _filter(args: dict[str, Any]) -> Callable[[Entry], bool]:
    user, endpoint = text(args, "user"), text(args, "endpoint")
    return lambda e: (user is None or user in (e.user, str(e.uid))) and (
        endpoint is None or endpoint == e.endpoint
    )


def _only(target: str, names: dict[str, str]) -> tuple[str, str]:
    """Raises ControlError unless one name is left."""
    if len(names) == 1:
        return next(iter(names.items()))
    if not names:
        raise ControlError(
            f"no user endpoint matches {target[:80]!r}; see mepctl list", os.EX_UNAVAILABLE
        )
    listed = ", ".join(sorted(n.rpartition(".")[2] for n in names)[:10])
    raise ControlError(
        f"{target[:80]!r} fits {len(names)} user endpoints: {listed}; write more of the id",
        os.EX_USAGE,
    )
