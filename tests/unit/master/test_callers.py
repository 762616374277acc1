"""Who may have how many connections, and how often they may ask."""

from __future__ import annotations

from mepd.master import callers
from mepd.master.callers import Callers


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_c2_places_are_capped_by_uid() -> None:
    c = Callers(Clock())
    for _ in range(callers.PER_UID):
        assert c.refusal(1000, False) is None
        c.came(1000, False)
    assert "uid 1000" in (c.refusal(1000, False) or "")
    assert c.refusal(1001, False) is None and c.refusal(0, True) is None
    c.left(1000, False)
    assert c.refusal(1000, False) is None


def test_c2_all_accounts_together_leave_administrators_their_places() -> None:
    c = Callers(Clock())
    for n in range(callers.TOTAL):
        c.came(1000 + n, False)
    assert c.refusal(5000, False) == f"too many connections (at most {callers.TOTAL})"
    for _ in range(callers.PER_ADMINISTRATOR):
        assert c.refusal(7, True) is None
        c.came(7, True)
    assert c.refusal(7, True) is not None and c.refusal(0, True) is None
    c.left(1000, False)
    assert c.refusal(5000, False) is None


def test_c2_who_asks_without_end_waits() -> None:
    clock = Clock()
    c = Callers(clock)
    waits = [c.wait(1000, False) for _ in range(int(callers.BURST) + 4)]
    assert not any(waits[: int(callers.BURST)])
    assert waits[-4:] == [n / callers.RATE for n in (1, 2, 3, 4)]
    assert c.wait(1001, False) == 0.0 and c.wait(1000, True) == 0.0
    clock.now = 60.0
    assert c.wait(1000, False) == 0.0


def test_c2_buckets_of_many_uids_are_forgotten() -> None:
    clock = Clock()
    c = Callers(clock)
    for uid in range(callers._BUCKETS_MAX):
        c.wait(uid + 1, False)
    clock.now = 10.0
    c.wait(999999, False)
    assert len(c._buckets) == 1
