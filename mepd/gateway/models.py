"""The bodies of requests. Fields that this service has no use for are ignored."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

_UUID = r"^[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{12}$"
Uuid = Annotated[str, Field(pattern=_UUID), AfterValidator(str.lower)]
Name = Annotated[str, Field(min_length=1, max_length=256)]
ImportPath = Annotated[str, Field(max_length=512)]

TASKS_MAX = 20_000
IDS_MAX = 20_000


def _not_too_many(value: Any) -> Any:
    """Before each key is looked at: every fault of a body takes a kilobyte to be told."""
    if isinstance(value, dict) and len(value) > TASKS_MAX:
        raise ValueError(f"more than {TASKS_MAX} functions")
    return value


class Body(BaseModel):
    model_config = ConfigDict(strict=True, extra="ignore")


class FunctionBody(Body):
    """A function; ``serialized`` false: ``function_code`` is its source text."""

    function_name: Name
    function_code: Annotated[str, Field(min_length=1)]
    serialized: bool = True
    description: Annotated[str, Field(max_length=65536)] | None = None
    meta: dict[str, Any] | None = None
    public: bool = False


class EndpointBody(Body):
    endpoint_name: Name
    display_name: Annotated[str, Field(max_length=256)] | None = None
    multi_user: bool = False
    public: bool = False
    metadata: dict[str, Any] | None = None
    allowed_functions: Annotated[list[Uuid], Field(max_length=10_000, fail_fast=True)] | None = None
    admins: Annotated[list[Uuid], Field(max_length=1000, fail_fast=True)] | None = None
    authentication_policy: Uuid | None = None
    high_assurance: bool = False


class SubmitBody(Body):
    """``tasks``: function id -> packed arguments of each task."""

    tasks: Annotated[
        dict[Uuid, Annotated[list[str], Field(fail_fast=True)]], BeforeValidator(_not_too_many)
    ]
    create_queue: bool = False
    task_group_id: Uuid | None = None
    user_endpoint_config: dict[str, Any] | None = None
    user_runtime: dict[str, Any] | None = None
    resource_specification: dict[str, Any] | None = None
    result_serializers: (
        Annotated[list[ImportPath], Field(max_length=32, fail_fast=True)] | None
    ) = None


class BatchStatusBody(Body):
    task_ids: Annotated[list[Uuid], Field(max_length=IDS_MAX, fail_fast=True)]
