from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from mepd.consumer.backoff import MAX_S, STABLE_S, Backoff, delay


@given(st.integers(0, 10**6), st.floats(0, 1, exclude_max=True))
def test_A3_backoff_at_most_30_s(attempt: int, jitter: float) -> None:
    assert 0 < delay(attempt, jitter) <= MAX_S == 30


def test_delays_grow_to_the_limit() -> None:
    state, seen = Backoff(), []
    for _ in range(16):
        state = state.after_failure(0.0)
        seen.append(state.delay(0.999999))
    assert seen[0] < 0.6
    assert seen == sorted(seen)
    assert seen[-1] > 29


def test_only_what_worked_for_a_while_starts_anew() -> None:
    tired = Backoff(6)
    assert tired.after_failure(STABLE_S - 0.1) == Backoff(7)
    assert tired.after_failure(STABLE_S) == Backoff(1)
