"""The AMQP headers of a task message."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from mepd.errors import WireError
from mepd.wire import headertables
from mepd.wire.framing import parse_json
from mepd.wire.message import unpack_task

_TASK_ID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")


@dataclass(frozen=True)
class TaskHeaders:
    """``resources`` is the resource specification; {} for none."""

    task_id: str
    function_id: str
    serializers: tuple[str, ...]
    resources: dict[str, Any]


def _resources(value: Any) -> dict[str, Any]:
    if isinstance(value, str):
        value = parse_json(value)
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise WireError("resource_specification is no object")
    return value


def task_id_of(headers: dict[str, Any], body: bytes) -> str:
    """The task's id from its headers, else from its body. Raises WireError."""
    value = headers.get("task_uuid")
    if value is None:
        value = unpack_task(body).task_id
    if not isinstance(value, str) or not _TASK_ID.fullmatch(value.lower()):
        raise WireError("task_uuid is no UUID")
    return value.lower()


def read_headers(task_id: str, headers: dict[str, Any]) -> TaskHeaders:
    """Raises WireError naming the header at fault."""
    if headertables.UNREADABLE in headers:
        raise WireError("the message's headers cannot be read")
    function_id = headers.get("function_uuid") or ""
    serializers = headers.get("result_serializers") or []
    if not isinstance(function_id, str):
        raise WireError("function_uuid is no string")
    if isinstance(serializers, str):
        serializers = parse_json(serializers) or []
    if not isinstance(serializers, list) or any(type(s) is not str for s in serializers):
        raise WireError("result_serializers is no list of strings")
    resources = _resources(headers.get("resource_specification"))
    return TaskHeaders(task_id, function_id.lower(), tuple(serializers), resources)
