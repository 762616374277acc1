"""What mepd remembers: bounded, one line each, without secrets."""

from __future__ import annotations

import time

import pytest

from mepd.master import history
from mepd.master.history import Entry, History, Kind
from mepd.master.table import Uep
from mepd.model import StartRequest, UepState
from mepd.posix.process import ProcessId


def uep(name: str = "uep.a.b") -> Uep:
    request = StartRequest(name, "a", "b", "e", "h@example.org", (), 0, {})
    return Uep(name, "gpu", request, ProcessId(2, 0.0), ProcessId(2, 0.0), "c", 0.0,
               UepState.RUNNING, user="harper", uid=1000)  # fmt: skip


def test_what_is_known_of_a_uep() -> None:
    h = History(lambda: 7.0)
    h.note_uep(Kind.DIED, uep(), reason="Command terminated by signal: 9", code=-9)
    (entry,) = h.events()
    assert (entry.time, entry.kind, entry.endpoint, entry.user, entry.uid, entry.pid) == (
        7.0, "died", "gpu", "harper", 1000, 2
    )  # fmt: skip
    assert entry.username == "h@example.org" and entry.public == entry.reason
    assert h.last_failure("uep.a.b") is entry and not list(h.failures())


def test_memory_is_bounded() -> None:
    h = History()
    for n in range(history._LAST_MAX + 50):
        h.note_uep(Kind.FAILED, uep(f"u{n}"), reason=str(n))
    assert len(list(h.events())) == history.EVENTS_MAX
    kept = [e.reason for e in h.failures()]
    assert len(kept) == history.FAILURES_MAX and kept[-1] == str(history._LAST_MAX + 49)
    assert h.last_failure("u0") is None and h.last_failure("u60") is not None


def test_reasons_are_one_line_without_secrets() -> None:
    h = History()
    h.note(Kind.FAILED, "gpu", reason="a\nb\x1b[31m amqp://u:canary@h " + "x" * 5000)
    (entry,) = h.failures()
    assert entry.reason.startswith("a b\\x1b[31m amqp://***@h ")
    assert len(entry.reason) <= history._REASON_MAX


@pytest.mark.parametrize("text", [" " * 1_000_000, " \n" * 1_000_000, "a://b" * 1_000_000])
def test_a_reason_as_long_as_a_frame_takes_no_time(text: str) -> None:
    """What looks for its words from every blank on takes minutes."""
    h, before = History(), time.process_time()
    h.note(Kind.FAILED, "gpu", reason=text + "end")
    (entry,) = h.failures()
    assert len(entry.reason) <= history._REASON_MAX
    assert time.process_time() - before < 10


def test_names_from_outside_do_not_fill_the_memory() -> None:
    h = History()
    h.note(Kind.FAILED, "e" * 5_000_000, name="uep.a", username="u" * 5_000_000)
    (entry,) = h.failures()
    assert (entry.endpoint, entry.username) == ("e" * 256, "u" * 256)


def test_listeners_hear_until_they_leave() -> None:
    h = History()
    heard: list[Entry] = []
    leave = h.listen(heard.append)
    h.note(Kind.ONLINE, "gpu")
    leave()
    leave()
    h.note(Kind.OFFLINE, "gpu")
    assert [e.kind for e in heard] == [Kind.ONLINE]
