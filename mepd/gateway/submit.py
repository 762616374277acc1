"""A submission: checked, its user endpoint online, its tasks stored, then on their way."""

from __future__ import annotations

import asyncio
import json
import uuid
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Row

from mepd.gateway import registry, taskstore
from mepd.gateway.accounts import Caller
from mepd.gateway.dispatch import declare_group_queue, is_listening
from mepd.gateway.failures import (
    ApiError,
    BrokerDown,
    StartFailed,
    forbidden,
    invalid,
    not_found,
    unavailable,
)
from mepd.gateway.models import TASKS_MAX, SubmitBody
from mepd.gateway.policy import enforce
from mepd.gateway.policy.enforce import PolicyCache
from mepd.gateway.service import Service
from mepd.gateway.starts import Uep, uep_of
from mepd.gateway.taskstore import NewTask, Outgoing
from mepd.gateway.uepid import uep_id
from mepd.wire.start_request import USER_OPTS_MAX


_SIZES = {
    "user_endpoint_config": USER_OPTS_MAX,
    "user_runtime": USER_OPTS_MAX,
    "resource_specification": 32 * 1024,
    "result_serializers": 32 * 1024,
}
"""Bytes of JSON. The last two travel in headers, which the broker takes in one frame only."""
SUBMISSION_MAX = 256 * 1024 * 1024
"""Bytes of all messages that one submission becomes."""
SETTLING_S = 5.0
"""How long a user endpoint may be online before it must consume its queue."""


@dataclass(frozen=True)
class Accepted:
    """``tasks``: function id -> task ids."""

    group_id: str
    tasks: dict[str, list[str]]


def _check_size(body: SubmitBody, payload_max: int) -> None:
    count = sum(len(payloads) for payloads in body.tasks.values())
    largest = max((len(p) for payloads in body.tasks.values() for p in payloads), default=0)
    if largest > payload_max:
        raise ApiError(
            413,
            "PAYLOAD_TOO_LARGE",
            f"A task's arguments have {largest} bytes; at most {payload_max} are accepted",
        )
    if count == 0:
        raise invalid("no tasks")
    if count > TASKS_MAX:
        raise invalid(f"{count} tasks in one submission; at most {TASKS_MAX}")
    for name, most in _SIZES.items():
        if len(json.dumps(getattr(body, name) or {})) > most:
            raise invalid(f"{name} is larger than {most} bytes")


def _check_functions(body: SubmitBody, sizes: dict[str, int]) -> None:
    """Each task goes out with its function's code: a small body must not become much."""
    total = sum(
        len(payloads) * sizes[function_id] + sum(map(len, payloads))
        for function_id, payloads in body.tasks.items()
    )
    if total > SUBMISSION_MAX:
        text = f"The tasks have {total} bytes with their functions; at most {SUBMISSION_MAX}"
        raise ApiError(413, "PAYLOAD_TOO_LARGE", f"{text} are accepted in one submission")


def _check(
    tx: Connection, caller: Caller, endpoint_id: str, body: SubmitBody, cache: PolicyCache
) -> Row[Any] | None:
    """The user endpoint's row if it is known. Raises ApiError."""
    endpoint = registry.get_endpoint(tx, endpoint_id)
    if endpoint is None or not registry.may_see(endpoint, caller.identity_id):
        raise not_found("Endpoint", endpoint_id)
    if not registry.may_submit(endpoint, caller.identity_id):
        raise forbidden(f"Endpoint {endpoint_id} takes tasks of its owner only")
    enforce.check(tx, cache, endpoint, caller)
    registry.check_lock(endpoint)
    sizes = registry.function_sizes(tx, body.tasks, caller.identity_id)
    for function_id in body.tasks:
        if function_id not in sizes:
            raise not_found("Function", function_id)
        allowed = endpoint.allowed_functions
        if allowed is not None and function_id not in allowed:
            raise ApiError(
                403,
                "FUNCTION_NOT_PERMITTED",
                f"Function {function_id} not permitted on endpoint {endpoint_id}",
            )
    _check_functions(body, sizes)
    if body.task_group_id is not None:
        group = taskstore.get_group(tx, body.task_group_id)
        if group is not None and group.owner != caller.identity_id:
            raise forbidden(f"Task group {body.task_group_id} belongs to another identity")
    ident = uep_id(endpoint_id, caller.identity_id, body.user_endpoint_config or {})
    row = registry.get_uep(tx, ident)
    if row is not None and row.identity_id != caller.identity_id:
        raise forbidden(f"User endpoint {ident} belongs to another identity")
    return row


async def _uep(
    service: Service, caller: Caller, endpoint_id: str, body: SubmitBody, row: Row[Any] | None
) -> Uep:
    """The user endpoint for this submission, remembered with its latest runtime."""
    config, runtime = body.user_endpoint_config or {}, body.user_runtime or {}
    if row is None or row.runtime != runtime:
        ident = uep_id(endpoint_id, caller.identity_id, config)
        row = await service.db.awrite(
            registry.put_uep, ident, endpoint_id, caller.identity_id, config, runtime
        )
        if row is None:
            raise forbidden(f"User endpoint {ident} belongs to another identity")
    return uep_of(row)


async def _is_there(service: Service, uep: Uep) -> bool:
    """Whether the user endpoint takes tasks now, not just by its last heartbeat.

    One that has only just come may report before it listens. Raises BrokerDown.
    """
    while service.presence.online(uep.id):
        if await is_listening(service.link, uep.id):
            return True
        if service.presence.online_for(uep.id) > SETTLING_S:
            service.presence.goodbye(uep.id)
            return False
        await asyncio.sleep(SETTLING_S / 20)
    return False


async def _await_online(service: Service, uep: Uep) -> None:
    if await _is_there(service, uep):
        return
    with service.waiting.one(uep.identity_id):
        await service.starts.ensure(uep)


def _headers(function_id: str, task_id: str, body: SubmitBody) -> dict[str, Any]:
    headers: dict[str, Any] = {"function_uuid": function_id, "task_uuid": task_id}
    if body.resource_specification is not None:
        headers["resource_specification"] = json.dumps(body.resource_specification)
    if body.result_serializers is not None:
        headers["result_serializers"] = body.result_serializers
    return headers


def _new_tasks(body: SubmitBody) -> list[NewTask]:
    new = []
    for function_id, payloads in body.tasks.items():
        for payload in payloads:
            ident = str(uuid.uuid4())
            new.append(NewTask(ident, function_id, payload, _headers(function_id, ident, body)))
    return new


def _store(
    tx: Connection, caller: Caller, group_id: str, queue: bool, uep: Uep, new: list[NewTask]
) -> dict[str, str]:
    """Returns the functions' code, which nobody holds while a user endpoint starts."""
    group = taskstore.get_group(tx, group_id)
    if group is not None and group.owner != caller.identity_id:
        raise forbidden(f"Task group {group_id} belongs to another identity")
    taskstore.put_group(tx, group_id, caller.identity_id, queue)
    # it may have been forgotten since it was looked up
    registry.put_uep(tx, uep.id, uep.endpoint_id, uep.identity_id, uep.config, uep.runtime)
    taskstore.add_tasks(tx, caller.identity_id, group_id, uep.endpoint_id, uep.id, new)
    return taskstore.function_codes(tx, {task.function_id for task in new})


async def submit(
    service: Service, caller: Caller, endpoint_id: str, body: SubmitBody
) -> Accepted:
    """Raises ApiError; nothing of the tasks is stored then."""
    _check_size(body, service.settings.payload_max)
    row = await service.db.aread(_check, caller, endpoint_id, body, service.policies)
    group_id = body.task_group_id or str(uuid.uuid4())
    try:
        if row is None:
            service.starts.check_endpoint(endpoint_id)
        uep = await _uep(service, caller, endpoint_id, body, row)
        await _await_online(service, uep)
        if body.create_queue:  # not before, lest refused submissions leave queues
            await declare_group_queue(service.link, group_id)
        if not service.link.connected:
            raise BrokerDown("the broker is not connected")
    except StartFailed as e:
        raise invalid(str(e)) from None
    except BrokerDown as e:
        raise unavailable(str(e)) from None
    new = _new_tasks(body)
    async with service.locks.of(uep.id):
        codes = await service.db.awrite(_store, caller, group_id, body.create_queue, uep, new)
        service.dispatcher.send(
            Outgoing(t.id, uep.id, codes[t.function_id], t.payload, t.headers) for t in new
        )
    if not service.presence.online(uep.id):  # it left while the tasks were stored
        service.reviver.gone(uep.id)
    service.metrics.accepted.inc(len(new))
    tasks: dict[str, list[str]] = {function_id: [] for function_id in body.tasks}
    for task in new:
        tasks[task.function_id].append(task.id)
    return Accepted(group_id, tasks)
