"""Submission, status and results of tasks."""

from __future__ import annotations

import uuid
from typing import Any

from fastapi import APIRouter
from sqlalchemy import Connection, Row

from mepd.errors import WireError
from mepd.gateway import brokeraccounts, names, taskstore
from mepd.gateway.answers import (
    ERRORS,
    BatchAnswer,
    GroupAnswer,
    ResultConnection,
    Submitted,
    TaskAnswer,
)
from mepd.gateway.callers import ComputeCaller, ServiceDep
from mepd.gateway.dispatch import declare_group_queue
from mepd.gateway.failures import ApiError, BrokerDown, not_found, unavailable
from mepd.gateway.models import BatchStatusBody, SubmitBody, Uuid
from mepd.gateway.relay import check_result
from mepd.gateway.schema import DONE, STORED
from mepd.gateway.strict import StrictRoute, storable
from mepd.gateway.submit import submit
from mepd.wire import message

router = APIRouter(tags=["compute"], route_class=StrictRoute, responses=ERRORS)

ANSWER_MAX = 32 * 1024 * 1024
"""Bytes of the results in one answer."""


@router.post("/v3/endpoints/{endpoint_id}/submit", response_model=Submitted)
async def submit_tasks(
    endpoint_id: Uuid, body: SubmitBody, caller: ComputeCaller, service: ServiceDep
) -> dict[str, Any]:
    """Answers when the user endpoint has checked in and the tasks are stored."""
    accepted = await submit(service, caller, endpoint_id, body)
    return {
        "request_id": str(uuid.uuid4()),
        "task_group_id": accepted.group_id,
        "endpoint_id": endpoint_id,
        "tasks": accepted.tasks,
    }


def task_json(row: Row[Any]) -> dict[str, Any]:
    """A task as the SDK reads it; a finished one with ``result`` or ``exception``."""
    answer: dict[str, Any] = {"task_id": row.id, "task_group_id": row.group_id}
    if row.state != DONE:
        waiting = "waiting-for-ep" if row.state == STORED else "waiting-for-nodes"
        return {**answer, "status": waiting}
    try:
        result = message.unpack_result(row.result)
        check_result(result)
    except WireError as e:  # stored by an older version
        result = message.Result(row.id, storable(str(e)), error_code="RESULT_UNREADABLE")
    answer["completion_t"] = str(row.finished)
    if result.details is not None:
        answer["details"] = result.details
    if result.is_error:
        return {**answer, "status": "failed", "exception": result.data}
    return {**answer, "status": "success", "result": result.data}


@router.get("/v2/tasks/{task_id}", response_model=TaskAnswer, response_model_exclude_unset=True)
async def get_task(task_id: Uuid, caller: ComputeCaller, service: ServiceDep) -> dict[str, Any]:
    found = await service.db.aread(taskstore.get_tasks, [task_id], caller.identity_id)
    if task_id not in found:
        raise not_found("Task", task_id)
    return task_json(found[task_id])


@router.post("/v2/batch_status", response_model=BatchAnswer, response_model_exclude_unset=True)
async def batch_status(
    body: BatchStatusBody, caller: ComputeCaller, service: ServiceDep
) -> dict[str, Any]:
    """Those of the tasks that are the caller's."""
    size = await service.db.aread(taskstore.result_sizes, body.task_ids, caller.identity_id)
    if size > ANSWER_MAX:
        text = f"The results have {size} bytes; ask for at most {ANSWER_MAX} at a time"
        raise ApiError(413, "PAYLOAD_TOO_LARGE", text)
    found = await service.db.aread(taskstore.get_tasks, body.task_ids, caller.identity_id)
    return {"response": "batch", "results": {k: task_json(row) for k, row in found.items()}}


def _group(tx: Connection, ident: str, owner: str) -> list[str] | None:
    """The group's task ids, and from now on its queue; None if it is not the owner's."""
    row = taskstore.get_group(tx, ident)
    if row is None or row.owner != owner:
        return None
    taskstore.put_group(tx, ident, owner, True)
    return taskstore.group_tasks(tx, ident)


@router.get("/v2/taskgroup/{group_id}", response_model=GroupAnswer)
async def task_group(
    group_id: Uuid, caller: ComputeCaller, service: ServiceDep
) -> dict[str, Any]:
    """The group's tasks. Who asks may want to wait for results: the group gets its queue."""
    ids = await service.db.awrite(_group, group_id, caller.identity_id)
    if ids is None:
        raise not_found("Taskgroup", group_id)
    try:
        await declare_group_queue(service.link, group_id)
    except BrokerDown as e:
        raise unavailable(str(e)) from None
    return {
        "taskgroup_id": group_id,
        "create_websockets_queue": True,
        "tasks": [{"id": ident} for ident in ids],
    }


@router.get("/v2/get_amqp_result_connection_url", response_model=ResultConnection)
async def result_connection(caller: ComputeCaller, service: ServiceDep) -> dict[str, str]:
    """Credentials that read the queues of the caller's task groups, for a day."""
    username, password = await service.db.awrite(
        brokeraccounts.issue, brokeraccounts.SDK, caller.identity_id
    )
    return {
        "queue_prefix": names.GROUP_PREFIX,
        "connection_url": service.settings.public_broker.url(username, password),
    }
