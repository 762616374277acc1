"""Results for tasks that could not be run, or were lost, in words fit for the user."""

from __future__ import annotations

import os
import signal
import time
from typing import Any

from mepd.wire.message import (
    ACTOR_INTERCHANGE,
    EXEC_END,
    WAITING_FOR_LAUNCH,
    Result,
    pack_result,
    transition,
)

REMOTE_ERROR = "RemoteExecutionError"
NOT_ALLOWED = "FUNCTION_NOT_ALLOWED"
WORKER_LOST = "WorkerLost"
TOO_LARGE = "MaxResultSizeExceeded"
RESULT_LOST = "ResultLost"
ENDPOINT_LOST = "EndpointLost"
LOST_TEXT = "the endpoint died while running this task; it was not run again"
STOPPED_TEXT = "the endpoint was stopped while running this task; it was not run again"


def not_allowed(function_id: str, endpoint_id: str) -> str:
    return f"Function {function_id} not permitted on endpoint {endpoint_id}"


def too_large(size: int, limit: int) -> str:
    return f"{TOO_LARGE}: the broker takes messages of at most {limit} bytes, not {size}"


def result_lost(why: str) -> str:
    return f"the result of this task, kept on disk until it could be sent, is lost: {why}"


HUNG_UP = "closed its connection to the endpoint, and was killed"
NOT_READY = "did not become ready in time, and was killed"
ENDING_TIME = 1.0
"""Seconds for a process that has closed its connection to end, and so to tell why."""


def exit_text(status: int) -> str:
    """How a process ended, from Popen.returncode: a signal's name or an exit code."""
    if status >= 0:
        return f"exited with code {status}"
    try:
        name = signal.Signals(-status).name
    except ValueError:
        name = f"signal {-status}"
    hint = ", perhaps for want of memory" if -status == signal.SIGKILL else ""
    return f"was killed by {name}{hint}"


def lost_worker(how: str) -> str:
    """``how`` as exit_text() has it."""
    return f"WorkerLost: the worker process running this task {how}"


def error_result(
    task_id: str,
    code: str,
    text: str,
    details: dict[str, Any] | None = None,
    submitted: int | None = None,
) -> bytes:
    """A packed error result; ``text`` is what the user sees.

    ``submitted`` is when the engine got the task, in ns since the epoch; None if it did not.
    """
    times = [(EXEC_END, time.time_ns())]
    if submitted is not None:
        times.insert(0, (WAITING_FOR_LAUNCH, submitted))
    transitions = tuple(transition(state, ACTOR_INTERCHANGE, at) for state, at in times)
    return pack_result(Result(task_id, text, details, code, text, transitions))


def base_details(endpoint_id: str) -> dict[str, Any]:
    """What is known of this environment without a worker's help."""
    system = os.uname()
    return {"endpoint_id": endpoint_id, "os": f"{system.sysname}-{system.release}"}
