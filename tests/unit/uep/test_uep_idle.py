from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mepd.uep.idle import IdleLimits, Limit, Movement, beats, deadline

LIMITS = IdleLimits(period=30.0, soft=10, hard=5760)


def test_soft_limit_is_five_minutes_after_the_last_result() -> None:
    assert deadline(LIMITS, Movement(1000.0, received=1, done=1)) == (1300.0, Limit.SOFT)


def test_hard_limit_holds_while_a_task_is_outstanding() -> None:
    moved = Movement(1000.0, received=2, done=1, outstanding=1)
    assert deadline(LIMITS, moved) == (1000.0 + 48 * 3600, Limit.HARD)


def test_manual_example_seven_beats_are_three_and_a_half_minutes() -> None:
    limits = IdleLimits(30.0, 1, 7)
    moved = Movement(0.0, received=1, outstanding=1)
    assert deadline(limits, moved) == (210.0, Limit.HARD)


def test_soft_counts_only_after_some_work() -> None:
    assert deadline(LIMITS, Movement(0.0)) == (5760 * 30.0, Limit.HARD)


def test_without_a_soft_limit_it_never_stops() -> None:
    assert deadline(IdleLimits(30.0, 0, 0), Movement(0.0, 5, 5)) is None


@pytest.mark.parametrize(("now", "count"), [(0.0, 0), (29.9, 0), (30.0, 1), (95.0, 3), (-5.0, 0)])
def test_beats(now: float, count: int) -> None:
    assert beats(LIMITS, Movement(0.0), now) == count


@given(
    st.integers(1, 100),
    st.integers(1, 100),
    st.floats(0, 1e6),
    st.integers(0, 3),
    st.integers(0, 3),
)
def test_movement_never_brings_the_end_nearer(
    soft: int, more: int, at: float, received: int, outstanding: int
) -> None:
    limits = IdleLimits(1.0, soft, soft + more)
    before = deadline(limits, Movement(at, received, 0, outstanding))
    after = deadline(limits, Movement(at + 1, received, 0, outstanding))
    assert before is not None and after is not None and after[0] > before[0]
