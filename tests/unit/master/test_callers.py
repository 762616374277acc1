"""Who may have how many connections, and how often they may ask."""

from __future__ import annotations

from mepd.master import callers
from mepd.master.callers import Callers


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_c2_places_are_capped_by_uid_and_root_has_its_own() -> None:
    c = Callers(Clock())
    for _ in range(callers.PER_UID):
        assert c.refusal(1000) is None
        c.came(1000)
    assert "uid 1000" in (c.refusal(1000) or "")
    assert c.refusal(1001) is None and c.refusal(0) is None
    c.left(1000)
    assert c.refusal(1000) is None


def test_c2_all_accounts_together_leave_roots_places_free() -> None:
    c = Callers(Clock())
    for n in range(callers.TOTAL):
        c.came(1000 + n)
    assert c.refusal(5000) == f"too many connections (at most {callers.TOTAL})"
    for _ in range(callers.PER_ROOT):
        assert c.refusal(0) is None
        c.came(0)
    assert c.refusal(0) is not None


def test_c2_who_asks_without_end_waits() -> None:
    clock = Clock()
    c = Callers(clock)
    waits = [c.wait(1000) for _ in range(int(callers.BURST) + 4)]
    assert not any(waits[: int(callers.BURST)])
    assert waits[-4:] == [n / callers.RATE for n in (1, 2, 3, 4)]
    assert c.wait(1001) == 0.0 and c.wait(0) == 0.0
    clock.now = 60.0
    assert c.wait(1000) == 0.0


def test_c2_buckets_of_many_uids_are_forgotten() -> None:
    clock = Clock()
    c = Callers(clock)
    for uid in range(callers._BUCKETS_MAX):
        c.wait(uid + 1)
    clock.now = 10.0
    c.wait(999999)
    assert len(c._buckets) == 1
