"""Protocol version 1 of the service's messages: byte 0x01, then one JSON object
``{"message_type": str, "data": object}`` in UTF-8 without newlines
(globus-compute-common, ``messagepack/protocol_versions/proto1.py``).
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from mepd.errors import WireError
from mepd.wire.framing import parse_json

VERSION = b"\x01"
# Of our own: a task may have put other functions into the module json.
_encode = json.JSONEncoder(separators=(",", ":"), allow_nan=False).encode

# TaskTransition.state and .actor (globus-compute-common, tasks/constants.py)
RECEIVED = "received"
WAITING_FOR_LAUNCH = "waiting-for-launch"
EXEC_START = "execution-start"
EXEC_END = "execution-end"
RUNNING = "running"
ACTOR_WORKER = "worker"
ACTOR_INTERCHANGE = "interchange"


@dataclass(frozen=True)
class Task:
    """A task as the endpoint receives it; the buffer is opaque outside a worker."""

    task_id: str
    task_buffer: str


@dataclass(frozen=True)
class Result:
    """A task's outcome: ``data`` is the serialized value, or the traceback of an error."""

    task_id: str
    data: str
    details: dict[str, Any] | None = None
    error_code: str | None = None
    error_message: str | None = None
    task_statuses: tuple[dict[str, Any], ...] = ()

    @property
    def is_error(self) -> bool:
        return self.error_code is not None


@dataclass(frozen=True)
class StatusReport:
    """An endpoint's heartbeat. ``global_state`` carries ``heartbeat_period`` (0: going
    away), ``active``, or ``error`` for a start that failed."""

    endpoint_id: str
    global_state: dict[str, Any]


def transition(state: str, actor: str, timestamp_ns: int) -> dict[str, Any]:
    """One entry of ``task_statuses``; the time is in nanoseconds since the epoch."""
    return {"timestamp": timestamp_ns, "state": state, "actor": actor}


def _pack(message_type: str, data: dict[str, Any]) -> bytes:
    body = {"message_type": message_type, "data": data}
    return VERSION + _encode(body).encode("ascii")


def pack_task(task: Task) -> bytes:
    data = {
        "task_id": task.task_id,
        "container_id": None,
        "container": None,
        "task_buffer": task.task_buffer,
    }
    return _pack("task", data)


def pack_result(result: Result) -> bytes:
    error = None
    if result.error_code is not None:
        error = {"code": result.error_code, "user_message": result.error_message or ""}
    data = {
        "task_id": result.task_id,
        "data": result.data,
        "details": result.details,
        "error_details": error,
        "task_statuses": list(result.task_statuses),
    }
    return _pack("result", data)


def pack_status(report: StatusReport) -> bytes:
    data = {
        "endpoint_id": report.endpoint_id,
        "global_state": report.global_state,
        "task_statuses": {},
    }
    return _pack("ep_status_report", data)


def _unpack(body: bytes, message_type: str) -> dict[str, Any]:
    if body[:1] != VERSION:
        raise WireError(f"message version {body[:1].hex() or 'missing'}, need 01")
    envelope = parse_json(body[1:])
    if type(envelope) is not dict or type(envelope.get("data")) is not dict:
        raise WireError("message is not an object with data")
    if envelope.get("message_type") != message_type:
        raise WireError(f"message is not a {message_type}")
    data: dict[str, Any] = envelope["data"]
    return data


def _text(data: dict[str, Any], key: str) -> str:
    value = data.get(key)
    if type(value) is not str:
        raise WireError(f"{key} is missing or no string")
    return value


def unpack_task(body: bytes) -> Task:
    """Raises WireError."""
    data = _unpack(body, "task")
    return Task(_text(data, "task_id"), _text(data, "task_buffer"))


def unpack_result(body: bytes) -> Result:
    """Raises WireError."""
    data = _unpack(body, "result")
    error = data.get("error_details")
    details = data.get("details")
    statuses = data.get("task_statuses") or []
    if error is not None and type(error) is not dict:
        raise WireError("error_details is no object")
    if details is not None and type(details) is not dict:
        raise WireError("details is no object")
    if type(statuses) is not list or any(type(s) is not dict for s in statuses):
        raise WireError("task_statuses is no list of objects")
    return Result(
        task_id=_text(data, "task_id"),
        data=_text(data, "data"),
        details=details,
        error_code=_text(error, "code") if error is not None else None,
        error_message=_text(error, "user_message") if error is not None else None,
        task_statuses=tuple(statuses),
    )


def unpack_status(body: bytes) -> StatusReport:
    """Raises WireError. The peer's field alias ``ep_status_report`` is accepted too."""
    data = _unpack(body, "ep_status_report")
    state = data.get("global_state", data.get("ep_status_report"))
    if type(state) is not dict:
        raise WireError("global_state is missing or no object")
    return StatusReport(_text(data, "endpoint_id"), state)
