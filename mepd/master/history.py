"""What happened of late: starts, failures, ends and reaps, in bounded memory."""

from __future__ import annotations

import enum
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from mepd import log as mepdlog
from mepd.master.table import Uep

EVENTS_MAX = 1000
FAILURES_MAX = 200
_LAST_MAX = 2000
_REASON_MAX = 1000
_RAW_MAX = 64 * 1024
_NAME_MAX = 256
"""Characters of a name from outside: a thousand entries are kept, and a name can be megabytes."""

RUN = "RUN"
"""The stage of a user endpoint that had started and ended otherwise than by its own will."""


class Kind(str, enum.Enum):
    """What can happen. The values are a contract of mepctl(8)."""

    STARTED = "started"  # the exec succeeded
    READY = "ready"  # the first report came
    FAILED = "failed"  # a start failed
    REFRESHED = "refreshed"  # asked for again while it runs
    STOPPED = "stopped"  # ended normally
    DIED = "died"  # ended by a signal, with an exit code, or before its first report
    REAPED = "reaped"  # idle or hung: told to end
    SIGNALLED = "signalled"
    ONLINE = "online"  # an endpoint's link to the broker
    OFFLINE = "offline"


@dataclass(frozen=True)
class Entry:
    """One thing that happened. ``time`` is of time(2), ``seconds`` since the start request.

    ``reason`` is for administrators; ``public`` is what the user may know of it.
    """

    time: float
    kind: Kind
    endpoint: str
    name: str = ""
    id: str = ""
    user: str = ""
    uid: int = -1
    pid: int | None = None
    username: str = ""
    identity: str = ""
    stage: str = ""
    code: int | None = None
    seconds: float | None = None
    reason: str = ""
    public: str = ""


def _line(text: str) -> str:
    """Linear in the length of the text, of which a worker's may be as long as a frame."""
    parts = (part.strip() for part in text[:_RAW_MAX].split("\n"))
    return mepdlog.safe(" ".join(filter(None, parts)), _REASON_MAX)


class History:
    """The last events and failures. Listeners get every entry as it happens."""

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._events: deque[Entry] = deque(maxlen=EVENTS_MAX)
        self._failures: deque[Entry] = deque(maxlen=FAILURES_MAX)
        self._last_failure: OrderedDict[str, Entry] = OrderedDict()
        self._listeners: list[Callable[[Entry], None]] = []

    def listen(self, listener: Callable[[Entry], None]) -> Callable[[], None]:
        """Call ``listener`` with every entry from now on; returns what ends that."""
        self._listeners.append(listener)

        def leave() -> None:
            if listener in self._listeners:
                self._listeners.remove(listener)

        return leave

    def note(self, kind: Kind, endpoint: str, **fields: Any) -> None:
        """Something happened that is not about one UEP in the table."""
        for key in ("reason", "public"):
            fields[key] = _line(fields.get(key, ""))
        fields["username"] = fields.get("username", "")[:_NAME_MAX]
        entry = Entry(round(self._clock(), 3), kind, endpoint[:_NAME_MAX], **fields)
        self._events.append(entry)
        if kind is Kind.FAILED:
            self._failures.append(entry)
        if kind in (Kind.FAILED, Kind.DIED) and entry.name:
            self._last_failure[entry.name] = entry
            self._last_failure.move_to_end(entry.name)
            if len(self._last_failure) > _LAST_MAX:
                self._last_failure.popitem(last=False)
        for listener in list(self._listeners):
            listener(entry)

    def note_uep(self, kind: Kind, uep: Uep, **fields: Any) -> None:
        """Something happened to a UEP. Without ``public`` its user may know the reason."""
        known = {
            "name": uep.name,
            "id": uep.request.uep_id,
            "user": uep.user,
            "uid": uep.uid,
            "pid": uep.process.pid,
            "username": uep.request.username,
            "identity": uep.request.effective_identity,
            "public": fields.get("reason", ""),
        }
        self.note(kind, uep.endpoint, **{**known, **fields})

    def events(self) -> Iterator[Entry]:
        """Oldest first."""
        return iter(tuple(self._events))

    def failures(self) -> Iterator[Entry]:
        """The starts that failed, oldest first."""
        return iter(tuple(self._failures))

    def last_failure(self, name: str) -> Entry | None:
        """Of the UEP called ``name``, in this or an earlier life."""
        return self._last_failure.get(name)
