"""The forms of answers, as the OpenAPI document tells them."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel


class ErrorAnswer(BaseModel):
    """What every refusal looks like; ``code`` is a word for programs."""

    status: str
    code: str
    http_status_code: int
    error_args: list[Any]
    reason: str
    message: str


class Versions(BaseModel):
    api: str
    min_sdk_version: str
    min_ep_version: str
    min_endpoint_version: str


class FunctionMade(BaseModel):
    function_uuid: str


class FunctionAnswer(BaseModel):
    function_uuid: str
    function_name: str
    function_code: str
    description: str | None
    metadata: dict[str, Any] | None
    public: bool
    owner_uuid: str


class Gone(BaseModel):
    """``result`` is 302, which the service has always said."""

    result: int


class EndpointAnswer(BaseModel):
    """``status`` is "online" or "offline"."""

    uuid: str
    name: str
    display_name: str | None
    owner: str
    owner_id: str
    multi_user: bool
    public: bool
    admins: list[str]
    allowed_functions: list[str] | None
    authentication_policy: str | None
    high_assurance: bool
    metadata: dict[str, Any] | None
    status: str


class QueueInfo(BaseModel):
    connection_url: str
    queue: str


class HeartbeatInfo(QueueInfo):
    exchange: str
    queue_publish_kwargs: dict[str, Any]


class Registered(BaseModel):
    endpoint_id: str
    command_queue_info: QueueInfo
    heartbeat_queue_info: HeartbeatInfo


class TaskCounts(BaseModel):
    total_tasks: int
    outstanding_tasks: int
    finished_tasks: int


class StatusAnswer(BaseModel):
    status: str
    details: TaskCounts


class AllowedFunctions(BaseModel):
    endpoint_id: str
    restricted: bool
    functions: list[str]


class Locked(BaseModel):
    """``locked_for``: seconds in which the endpoint can neither register nor be used."""

    endpoint_id: str
    locked_for: int


class Submitted(BaseModel):
    """``tasks``: function id -> task ids, in the order of the payloads."""

    request_id: str
    task_group_id: str
    endpoint_id: str
    tasks: dict[str, list[str]]


class TaskAnswer(BaseModel):
    """A finished task has ``result`` or ``exception``."""

    task_id: str
    task_group_id: str
    status: str
    completion_t: str | None = None
    details: dict[str, Any] | None = None
    result: str | None = None
    exception: str | None = None


class BatchAnswer(BaseModel):
    response: str
    results: dict[str, TaskAnswer]


class TaskId(BaseModel):
    id: str


class GroupAnswer(BaseModel):
    taskgroup_id: str
    create_websockets_queue: bool
    tasks: list[TaskId]


class ResultConnection(BaseModel):
    queue_prefix: str
    connection_url: str


_TEXTS = {
    400: "Not HTTP, not JSON, too deep, or compressed",
    401: "The token is missing, unknown, expired or revoked",
    403: "The caller may not do this",
    404: "It does not exist, or is not to be seen by the caller",
    405: "The path has no such method",
    408: "The body took too long",
    413: "The body is too large",
    415: "The body is not application/json",
    422: "The body or a parameter is not what is expected, or a user endpoint does not start",
    423: "The endpoint is locked",
    429: "Too many requests, or too many that wait; see Retry-After",
    503: "The store or the broker is away; see Retry-After",
}
ERRORS: dict[int | str, dict[str, Any]] = {
    status: {"model": ErrorAnswer, "description": text} for status, text in _TEXTS.items()
}
REFUSALS: dict[int | str, dict[str, Any]] = {
    status: {"description": text}
    for status, text in {**_TEXTS, 409: "It conflicts with what is there"}.items()
}
"""For routes whose refusals have the form of OAuth 2.0, or of the auth service."""
