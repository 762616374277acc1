"""The judge of the storm: what is the truth, and what only sounds like it."""

from __future__ import annotations

import pytest

from tests.e2e.judge import Ending, Kills, judge, run_twice

REMOTE = "TaskExecutionFailed"
DIED = "the endpoint died while running this task; it was not run again"
WORKER = (
    "WorkerLost: the worker process running this task was killed by SIGKILL, perhaps for want"
    " of memory"
)
ENDED = (
    "('POST', 'http://...', 'Bearer', 422, 'SEMANTICALLY_INVALID', 'Request payload failed"
    " validation: User endpoint process for x ended unexpectedly [terminated by signal 9]')"
)
NOTHING = Kills()
ALL = Kills({"uep": 1, "worker": 1, "broker": 1, "gateway": 1})


def error(kind: str, text: str, name: str = REMOTE) -> Ending:
    return Ending(kind, 7, "id", "error", name, text)


@pytest.mark.parametrize(
    "ending",
    [
        Ending("fast", 7, "id", "value", "", "14"),
        Ending("slow", 7, "id", "value", "", "21"),
        error("failing", "Traceback ...\nValueError: failing 7\n"),
        error("leaving", "Traceback ...\nSystemExit: 7"),
        error("crashing", WORKER),
        error("huge", "MaxResultSizeExceeded: ..."),
        error("unpicklable", "TypeError: cannot pickle 'generator' object"),
    ],
)
def test_what_a_task_does_by_itself_is_true_without_a_kill(ending: Ending) -> None:
    verdicts, wrong = judge([ending], NOTHING)
    assert not wrong and sum(verdicts.values()) == 1


@pytest.mark.parametrize(
    "ending",
    [
        Ending("fast", 7, "id", "value", "", "15"),
        Ending("failing", 7, "id", "value", "", "14"),
        Ending("fast", 7, "id", "open"),
        error("fast", "ValueError: failing 7"),
        error("failing", "ValueError: failing 8"),
        error("slow", "WorkerLost: the worker process running this task exited with code 1"),
        error("fast", "the endpoint was stopped while running this task; it was not run again"),
        error("fast", "whatever", "KeyError"),
    ],
)
def test_what_is_never_true(ending: Ending) -> None:
    assert judge([ending], ALL)[1]


@pytest.mark.parametrize("ending", [error("fast", WORKER), error("failing", DIED),
                                    Ending("fast", 7, None, "cancelled"),
                                    error("fast", ENDED, "ComputeAPIError")])  # fmt: skip
def test_blame_needs_a_kill(ending: Ending) -> None:
    assert not judge([ending], ALL)[1]
    assert judge([ending], NOTHING)[1]


def test_blame_beyond_what_a_kill_can_have_cost() -> None:
    assert not judge([error("fast", DIED)] * 2, ALL)[1]
    assert judge([error("fast", DIED)] * 3, ALL)[1]
    assert judge([error("fast", WORKER)] * 2, ALL)[1]


def test_a_task_that_ran_twice() -> None:
    assert run_twice(["a", "b", "a"]) == ["task a ran 2 times"]
