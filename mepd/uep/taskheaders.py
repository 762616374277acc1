"""The AMQP headers of a task message."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any

from mepd.errors import WireError
from mepd.wire import headertables
from mepd.wire.framing import parse_json
from mepd.wire.message import unpack_task

SERIALIZERS_MAX = 16 * 1024
"""Characters of the list of serializers, which goes to a worker in a frame's header."""
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


def _uuid(value: Any) -> str | None:
    if isinstance(value, str) and _TASK_ID.fullmatch(value.lower()):
        return value.lower()
    return None


def task_id_of(headers: dict[str, Any], body: bytes) -> str:
    """The task's id from its headers, or if that is none, from its body. Raises WireError."""
    found = _uuid(headers.get("task_uuid")) or _uuid(unpack_task(body).task_id)
    if found is None:
        raise WireError("task_uuid is no UUID")
    return found


def read_headers(task_id: str, headers: dict[str, Any]) -> TaskHeaders:
    """Raises WireError naming the header at fault."""
    if headertables.UNREADABLE in headers:
        raise WireError("the message's headers cannot be read")
    if headers.get("task_uuid") is not None and _uuid(headers["task_uuid"]) is None:
        raise WireError("task_uuid is no UUID")
    function_id = headers.get("function_uuid") or ""
    serializers = headers.get("result_serializers") or []
    if not isinstance(function_id, str):
        raise WireError("function_uuid is no string")
    if isinstance(serializers, str):
        serializers = parse_json(serializers) or []
    if not isinstance(serializers, list) or any(type(s) is not str for s in serializers):
        raise WireError("result_serializers is no list of strings")
    if len(json.dumps(serializers)) > SERIALIZERS_MAX:
        raise WireError(f"result_serializers takes more than {SERIALIZERS_MAX} characters")
    resources = _resources(headers.get("resource_specification"))
    return TaskHeaders(task_id, function_id.lower(), tuple(serializers), resources)
