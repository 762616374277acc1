"""The pure decisions of the master."""

from __future__ import annotations

import os
import signal

import pytest

from mepd.master import decisions, states
from mepd.master.states import Event
from mepd.model import Activity, UepState


@pytest.mark.parametrize(
    ("running", "cap", "refused"), [(0, 1, False), (1, 1, True), (5, 0, False), (2, 1, True)]
)
def test_total_cap(running: int, cap: int, refused: bool) -> None:
    assert (decisions.total_refusal(running, cap) is not None) is refused


@pytest.mark.parametrize(
    ("running", "caps", "refused"),
    [
        (1, (0, 0), False),
        (1, (2, 0), False),
        (2, (2, 0), True),
        (1, (5, 1), True),
        (1, (0, 1), True),
    ],
)
def test_cap_per_user_takes_the_smaller(running: int, caps: tuple[int, int], refused: bool) -> None:
    assert (decisions.user_refusal(running, "harper", *caps) is not None) is refused


BASE = {"heartbeat_period": 30.0, "soft": 10, "hard": 5760}


@pytest.mark.parametrize(
    ("activity", "silent", "word"),
    [
        (Activity(**BASE), 30, None),
        (Activity(**BASE), 92, "hung"),
        (Activity(done=1, last_move=355, **BASE), 0, None),
        (Activity(done=1, last_move=361, **BASE), 0, "soft"),
        (Activity(done=1, last_move=331, **BASE), 31, "soft"),
        (Activity(done=1, outstanding=1, last_move=99999, **BASE), 0, None),
        (Activity(outstanding=1, last_move=5763 * 30, **BASE), 0, "hard"),
        (Activity(done=1, last_move=10**9, soft=0, hard=0), 0, None),
    ],
)
def test_reaping(activity: Activity, silent: float, word: str | None) -> None:
    reason = decisions.reap_reason(activity, silent)
    assert reason is None if word is None else word in (reason or "")


def test_backoff_grows_to_its_bound() -> None:
    delays = [decisions.backoff(n) for n in range(60)]
    assert delays == sorted(delays) and delays[0] <= 0.2 and delays[-1] == decisions.BACKOFF_MAX


def test_the_table_of_states() -> None:
    walk = [Event.EXECED, Event.REPORTED, Event.STOP, Event.DIED]
    state = UepState.LAUNCHING
    seen = [state := states.next_state(state, event) for event in walk]
    assert [s.value for s in seen] == ["STARTING", "RUNNING", "STOPPING", "GONE"]
    for s in UepState:
        assert states.next_state(s, Event.DIED) is UepState.GONE
    assert states.next_state(UepState.STOPPING, Event.REPORTED) is UepState.STOPPING
    assert states.next_state(UepState.RUNNING, Event.EXECED) is UepState.RUNNING


@pytest.mark.parametrize(
    ("status", "text"),
    [
        (0, "Command stopped normally"),
        (7 << 8, "Command return code: 7"),
        (int(signal.SIGKILL), "Command terminated by signal: 9"),
    ],
)
def test_ends_in_the_manuals_words(status: int, text: str) -> None:
    assert os.WIFEXITED(status) or os.WIFSIGNALED(status)
    assert states.describe_end(status) == text
