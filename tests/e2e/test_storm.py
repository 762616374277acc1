"""Every future is done, each with the right value or an error that tells the truth."""

from __future__ import annotations

from tests.e2e import storm
from tests.e2e.site import Site


def test_a_task_mix_while_everything_is_killed(fresh: Site) -> None:
    outcome = storm.run(fresh, total=250, seed=1, period=2.0, patience=60)
    assert not outcome.wrong, outcome
    assert not outcome.unsubmitted and sum(outcome.kills.values()) >= 2, outcome
