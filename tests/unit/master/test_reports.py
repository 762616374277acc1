"""Which reports of UEPs are believed, and how many."""

from __future__ import annotations

from typing import Any

import pytest

from mepd.errors import WireError
from mepd.master.bucket import Bucket
from mepd.master.reports import activity
from mepd.model import Activity
from mepd.wire.activity import ActivityReport

GOOD: dict[str, Any] = {
    "received": 3, "outstanding": 1, "done": 2, "last_move": 0.5, "soft": 10, "hard": 5760,
    "heartbeat_period": 30.0,
}  # fmt: skip


def test_a_good_report() -> None:
    assert activity(ActivityReport(**GOOD)) == Activity(**GOOD)
    assert activity(ActivityReport(**GOOD, closing=True)).closing


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("received", -1), ("outstanding", -(2**62)), ("done", 2**62), ("soft", -1), ("hard", -5),
        ("last_move", -0.1), ("last_move", 1e17), ("heartbeat_period", 0.0),
        ("heartbeat_period", -30.0), ("heartbeat_period", 1e9), ("heartbeat_period", 1e-320),
    ],
)  # fmt: skip
def test_what_no_user_endpoint_says(field: str, value: float) -> None:
    with pytest.raises(WireError, match=f"{field} is out of range"):
        activity(ActivityReport(**{**GOOD, field: value}))


def test_a_bucket_lets_bursts_pass_and_no_stream() -> None:
    bucket = Bucket(rate=10.0, burst=20.0, left=20.0, since=0.0)
    assert sum(bucket.take(0.0) for _ in range(30)) == 20
    bucket = Bucket(rate=10.0, burst=20.0, left=20.0, since=0.0)
    assert all(bucket.take(t / 10) for t in range(1000))
    bucket = Bucket(rate=10.0, burst=20.0, left=20.0, since=0.0)
    assert not all(bucket.take(t / 20) for t in range(1000))
