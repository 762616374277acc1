"""Projects and policies, as globus_sdk's AuthClient manages them."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter
from pydantic import AfterValidator, Field
from sqlalchemy import Connection, Row

from mepd.gateway.answers import REFUSALS
from mepd.gateway import accounts
from mepd.gateway.accounts import Caller
from mepd.gateway.callers import ProjectCaller, ServiceDep
from mepd.gateway.failures import ApiError, not_found
from mepd.gateway.models import Body, Uuid
from mepd.gateway.policy import store
from mepd.gateway.policy.model import is_pattern
from mepd.gateway.strict import StrictRoute

router = APIRouter(prefix="/v2/api", tags=["auth"], route_class=StrictRoute, responses=REFUSALS)

TIMEOUT_MAX = 366 * 86400


def _pattern(text: str) -> str:
    if not is_pattern(text):
        raise ValueError("not a domain or a pattern of domains")
    return text.lower()


Label = Annotated[str, Field(min_length=1, max_length=256)]
Text = Annotated[str, Field(max_length=4096)]
Timeout = Annotated[int, Field(ge=0, le=TIMEOUT_MAX)]
Patterns = Annotated[
    list[Annotated[str, AfterValidator(_pattern)]], Field(max_length=1000, fail_fast=True)
]
Admins = Annotated[list[Uuid], Field(max_length=1000, fail_fast=True)]


class ProjectFields(Body):
    display_name: Label | None = None
    contact_email: Label | None = None
    admin_ids: Admins | None = None


class NewProject(ProjectFields):
    display_name: Label
    contact_email: Label


class PolicyFields(Body):
    project_id: Uuid | None = None
    display_name: Label | None = None
    description: Text | None = None
    authentication_assurance_timeout: Timeout | None = None
    required_mfa: bool | None = None
    domain_constraints_include: Patterns | None = None
    domain_constraints_exclude: Patterns | None = None


class NewPolicy(PolicyFields):
    project_id: Uuid
    display_name: Label
    description: Text = ""
    high_assurance: bool = False


class ProjectBody(Body):
    project: ProjectFields


class NewProjectBody(Body):
    project: NewProject


class PolicyBody(Body):
    policy: PolicyFields


class NewPolicyBody(Body):
    policy: NewPolicy


# --- projects -------------------------------------------------------------------------
def _project_json(tx: Connection, row: Row[Any]) -> dict[str, Any]:
    return {
        "id": row.id,
        "display_name": row.display_name,
        "project_name": row.display_name,
        "contact_email": row.contact_email,
        "admin_ids": row.admin_ids,
        "admin_group_ids": None,
        "admins": {"identities": accounts.look_up(tx, row.admin_ids, []), "groups": []},
    }


def _own_project(tx: Connection, ident: str, caller: Caller) -> Row[Any]:
    """Raises ApiError 404 for one that is not there, or another's."""
    row = store.get_project(tx, ident, caller.person)
    if row is None:
        raise not_found("Project", ident)
    return row


def _with_caller(admins: list[str] | None, caller: Caller) -> list[str]:
    """A project is administered by who has made it, if it names nobody."""
    return list(dict.fromkeys(admins or [caller.identity_id]))


def _add_project(tx: Connection, caller: Caller, body: NewProject) -> dict[str, Any]:
    admins = _with_caller(body.admin_ids, caller)
    row = store.add_project(tx, body.display_name, body.contact_email, admins)
    return _project_json(tx, row)


def _list_projects(tx: Connection, caller: Caller) -> list[dict[str, Any]]:
    return [_project_json(tx, row) for row in store.list_projects(tx, caller.person)]


def _get_project(tx: Connection, ident: str, caller: Caller) -> dict[str, Any]:
    return _project_json(tx, _own_project(tx, ident, caller))


def _change_project(
    tx: Connection, ident: str, caller: Caller, body: ProjectFields
) -> dict[str, Any]:
    _own_project(tx, ident, caller)
    values = body.model_dump(exclude_none=True)
    if "admin_ids" in values:
        values["admin_ids"] = _with_caller(values["admin_ids"], caller)
    return _project_json(tx, store.change_project(tx, ident, values))


def _delete_project(tx: Connection, ident: str, caller: Caller) -> dict[str, Any]:
    shown = _get_project(tx, ident, caller)
    if not store.delete_project(tx, ident):
        raise ApiError(409, "CONFLICT", f"Project {ident} has policies")
    return shown


@router.post("/projects")
async def add_project(
    body: NewProjectBody, caller: ProjectCaller, service: ServiceDep
) -> dict[str, Any]:
    return {"project": await service.db.awrite(_add_project, caller, body.project)}


@router.get("/projects")
async def list_projects(caller: ProjectCaller, service: ServiceDep) -> dict[str, Any]:
    return {"projects": await service.db.aread(_list_projects, caller)}


@router.get("/projects/{project_id}")
async def get_project(
    project_id: Uuid, caller: ProjectCaller, service: ServiceDep
) -> dict[str, Any]:
    return {"project": await service.db.aread(_get_project, project_id, caller)}


@router.put("/projects/{project_id}")
async def change_project(
    project_id: Uuid, body: ProjectBody, caller: ProjectCaller, service: ServiceDep
) -> dict[str, Any]:
    changed = await service.db.awrite(_change_project, project_id, caller, body.project)
    return {"project": changed}


@router.delete("/projects/{project_id}")
async def delete_project(
    project_id: Uuid, caller: ProjectCaller, service: ServiceDep
) -> dict[str, Any]:
    return {"project": await service.db.awrite(_delete_project, project_id, caller)}


# --- policies -------------------------------------------------------------------------
_COLUMNS = {
    "authentication_assurance_timeout": "timeout",
    "domain_constraints_include": "include",
    "domain_constraints_exclude": "exclude",
}


def _policy_json(row: Row[Any]) -> dict[str, Any]:
    return {
        "id": row.id,
        "project_id": row.project_id,
        "display_name": row.display_name,
        "description": row.description,
        "high_assurance": row.high_assurance,
        "authentication_assurance_timeout": row.timeout,
        "required_mfa": row.required_mfa,
        "domain_constraints_include": row.include,
        "domain_constraints_exclude": row.exclude,
    }


def _check_mfa(high_assurance: bool, required_mfa: bool) -> None:
    if required_mfa and not high_assurance:
        raise ApiError(422, "SEMANTICALLY_INVALID", "required_mfa needs high_assurance")


def _own_policy(tx: Connection, ident: str, caller: Caller) -> Row[Any]:
    """Raises ApiError 404 for one that is not there, or of another's project."""
    row = store.get_policy(tx, ident)
    if row is None or store.get_project(tx, row.project_id, caller.person) is None:
        raise not_found("Policy", ident)
    return row


def _add_policy(tx: Connection, caller: Caller, body: NewPolicy) -> dict[str, Any]:
    _own_project(tx, body.project_id, caller)
    _check_mfa(body.high_assurance, bool(body.required_mfa))
    row = store.add_policy(
        tx,
        {
            "project_id": body.project_id,
            "display_name": body.display_name,
            "description": body.description or "",
            "high_assurance": body.high_assurance,
            "timeout": body.authentication_assurance_timeout,
            "required_mfa": bool(body.required_mfa),
            "include": body.domain_constraints_include,
            "exclude": body.domain_constraints_exclude,
        },
    )
    return _policy_json(row)


def _change_policy(
    tx: Connection, ident: str, caller: Caller, body: PolicyFields
) -> dict[str, Any]:
    row = _own_policy(tx, ident, caller)
    given = body.model_dump(exclude_unset=True)
    nullable = set(_COLUMNS)
    values = {
        _COLUMNS.get(key, key): value
        for key, value in given.items()
        if value is not None or key in nullable
    }
    if "project_id" in values:
        _own_project(tx, values["project_id"], caller)
    _check_mfa(row.high_assurance, values.get("required_mfa", row.required_mfa))
    return _policy_json(store.change_policy(tx, ident, values))


def _delete_policy(tx: Connection, ident: str, caller: Caller) -> dict[str, Any]:
    shown = _policy_json(_own_policy(tx, ident, caller))
    if not store.delete_policy(tx, ident):
        raise ApiError(409, "CONFLICT", f"Policy {ident} is applied by an endpoint")
    return shown


def _get_policy(tx: Connection, ident: str, caller: Caller) -> dict[str, Any]:
    return _policy_json(_own_policy(tx, ident, caller))


def _list_policies(tx: Connection, caller: Caller) -> list[dict[str, Any]]:
    return [_policy_json(row) for row in store.list_policies(tx, caller.person)]


@router.post("/policies")
async def add_policy(
    body: NewPolicyBody, caller: ProjectCaller, service: ServiceDep
) -> dict[str, Any]:
    return {"policy": await service.db.awrite(_add_policy, caller, body.policy)}


@router.get("/policies")
async def list_policies(caller: ProjectCaller, service: ServiceDep) -> dict[str, Any]:
    return {"policies": await service.db.aread(_list_policies, caller)}


@router.get("/policies/{policy_id}")
async def get_policy(
    policy_id: Uuid, caller: ProjectCaller, service: ServiceDep
) -> dict[str, Any]:
    return {"policy": await service.db.aread(_get_policy, policy_id, caller)}


@router.put("/policies/{policy_id}")
async def change_policy(
    policy_id: Uuid, body: PolicyBody, caller: ProjectCaller, service: ServiceDep
) -> dict[str, Any]:
    return {"policy": await service.db.awrite(_change_policy, policy_id, caller, body.policy)}


@router.delete("/policies/{policy_id}")
async def delete_policy(
    policy_id: Uuid, caller: ProjectCaller, service: ServiceDep
) -> dict[str, Any]:
    return {"policy": await service.db.awrite(_delete_policy, policy_id, caller)}
