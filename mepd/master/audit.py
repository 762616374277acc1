"""The audit trail: one record for each start request that had an outcome.

Key and value pairs after the word ``audit``; a value that is not plain stands in quotes,
as in JSON. The log's level does not suppress them.
"""

from __future__ import annotations

import json
import logging
import re

from mepd.master.history import Entry, Kind

log = logging.getLogger("mepd.audit")
log.setLevel(logging.INFO)

_PLAIN = re.compile(r"[A-Za-z0-9_.@+/:-]+\Z")
_OUTCOMES = {Kind.READY: "started", Kind.FAILED: "failed", Kind.REFRESHED: "refreshed"}


class Audit:
    """A listener of History's. Only what answers a start request leaves a record."""

    def __init__(self) -> None:
        self._not_ready: dict[str, int | None] = {}
        """The pids of what has begun, by name: other requests for the name may fail meanwhile."""

    def heard(self, entry: Entry) -> None:
        if entry.kind is Kind.STARTED:
            self._not_ready[entry.name] = entry.pid
            return
        outcome = _OUTCOMES.get(entry.kind)
        if entry.kind in (Kind.STOPPED, Kind.DIED) and entry.name in self._not_ready:
            outcome = "failed"  # it ended before its first report
        if outcome is not None:
            if self._not_ready.get(entry.name, -1) == entry.pid and outcome != "refreshed":
                del self._not_ready[entry.name]
            text = record(entry, outcome)
            log.info("%s", text, extra={"uep": entry.name, "user": entry.user})


def record(entry: Entry, outcome: str) -> str:
    """``audit start outcome=started uep=... endpoint=gpu identity=... user=harper ...``"""
    fields = {
        "outcome": outcome,
        "uep": entry.name,
        "endpoint": entry.endpoint,
        "identity": entry.identity,
        "username": entry.username,
        "user": entry.user,
        "uid": entry.uid if entry.uid >= 0 else "",
        "pid": entry.pid if outcome != "failed" and entry.pid else "",
        "stage": entry.stage if outcome == "failed" else "",
        "code": entry.code if outcome == "failed" and entry.code is not None else "",
        "seconds": "" if entry.seconds is None else entry.seconds,
        "reason": entry.reason if outcome == "failed" else "",
    }
    pairs = (f"{name}={_quoted(str(value))}" for name, value in fields.items() if value != "")
    return f"audit start {' '.join(pairs)}"


def _quoted(value: str) -> str:
    return value if _PLAIN.match(value) else json.dumps(value, ensure_ascii=False)
