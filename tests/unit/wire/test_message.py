"""Task, result and status report beside the service's own packing, in both directions."""

from __future__ import annotations

import uuid
from typing import Any

import pytest
from globus_compute_common import messagepack
from globus_compute_common.messagepack.message_types import (
    EPStatusReport,
    Result,
    ResultErrorDetails,
    Task,
    TaskTransition,
)
from globus_compute_common.tasks import ActorName, TaskState
from hypothesis import given
from hypothesis import strategies as st

from mepd.errors import WireError
from mepd.wire import message

ID = str(uuid.UUID(int=7))
TEXT = st.text(st.characters(exclude_categories=["Cs"]))


@given(TEXT)
def test_task_packed_here_is_read_there(buffer: str) -> None:
    read = messagepack.unpack(message.pack_task(message.Task(ID, buffer)))
    assert isinstance(read, Task)
    assert (str(read.task_id), read.task_buffer) == (ID, buffer)


@given(TEXT)
def test_task_packed_there_is_read_here(buffer: str) -> None:
    body = messagepack.pack(Task(task_id=uuid.UUID(ID), task_buffer=buffer))
    assert message.unpack_task(body) == message.Task(ID, buffer)


RESULTS = [
    message.Result(ID, "02\nabc"),
    message.Result(ID, "02\nabc", details={"os": "Linux", "dill_version": "0.3.9"}),
    message.Result(ID, "trace", error_code="RemoteExecutionError", error_message="no — ☃"),
    message.Result(
        ID,
        "x",
        task_statuses=(
            message.transition(message.EXEC_START, message.ACTOR_WORKER, 1_700_000_000_000_000_000),
            message.transition(message.EXEC_END, message.ACTOR_WORKER, 1_700_000_000_000_000_001),
        ),
    ),
]


@pytest.mark.parametrize("result", RESULTS)
def test_result_packed_here_is_read_there(result: message.Result) -> None:
    read = messagepack.unpack(message.pack_result(result))
    assert isinstance(read, Result)
    assert (str(read.task_id), read.data) == (ID, result.data)
    assert read.is_error == result.is_error
    if read.error_details is not None:
        assert read.error_details.code == result.error_code
        assert read.error_details.user_message == result.error_message
    assert [t.timestamp for t in read.task_statuses] == [
        t["timestamp"] for t in result.task_statuses
    ]


def test_result_packed_there_is_read_here() -> None:
    body = messagepack.pack(
        Result(
            task_id=uuid.UUID(ID),
            data="trace",
            error_details=ResultErrorDetails(code="X", user_message="no"),
            task_statuses=[
                TaskTransition(timestamp=9, state=TaskState.EXEC_END, actor=ActorName.WORKER)
            ],
        )
    )
    read = message.unpack_result(body)
    assert (read.task_id, read.data) == (ID, "trace")
    assert (read.error_code, read.error_message) == ("X", "no")
    expected = message.transition(message.EXEC_END, message.ACTOR_WORKER, 9)
    assert {k: read.task_statuses[0][k] for k in expected} == expected


def test_names_of_states_are_the_services() -> None:
    states = {s.value for s in TaskState}
    assert {message.RECEIVED, message.EXEC_START, message.EXEC_END, message.RUNNING} <= states
    assert {message.ACTOR_WORKER, message.ACTOR_INTERCHANGE} <= {a.value for a in ActorName}


@pytest.mark.parametrize(
    "state", [{"heartbeat_period": 30}, {"error": "no", "heartbeat_period": 3}]
)
def test_status_packed_here_is_read_there(state: dict[str, Any]) -> None:
    read = messagepack.unpack(message.pack_status(message.StatusReport(ID, state)))
    assert isinstance(read, EPStatusReport)
    assert (str(read.endpoint_id), read.global_state) == (ID, state)


def test_status_packed_there_is_read_here() -> None:
    body = messagepack.pack(
        EPStatusReport(endpoint_id=uuid.UUID(ID), global_state={"active": True}, task_statuses={})
    )
    assert message.unpack_status(body) == message.StatusReport(ID, {"active": True})


@pytest.mark.parametrize(
    "body", [b"", b"\x02{}", b"{}", b"\x01", b"\x01[]", b"\x01{}", b"\x01\xff"]
)
@pytest.mark.parametrize(
    "unpack", [message.unpack_task, message.unpack_result, message.unpack_status]
)
def test_what_is_no_message(unpack: Any, body: bytes) -> None:
    with pytest.raises(WireError):
        unpack(body)


def test_one_kind_is_not_taken_for_another() -> None:
    with pytest.raises(WireError, match="not a result"):
        message.unpack_result(message.pack_task(message.Task(ID, "x")))


@given(st.binary(max_size=200))
def test_unpacking_is_total(data: bytes) -> None:
    for unpack in (message.unpack_task, message.unpack_result, message.unpack_status):
        for body in (data, b"\x01" + data):
            with pytest.raises(WireError):
                unpack(body)
