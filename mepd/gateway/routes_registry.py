"""Version, functions and endpoints."""

from __future__ import annotations

import time
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Query
from sqlalchemy import Connection, Row

from mepd.gateway import brokeraccounts, names, registry, taskstore
from mepd.gateway.accounts import Caller
from mepd.gateway.answers import (
    ERRORS,
    AllowedFunctions,
    EndpointAnswer,
    FunctionAnswer,
    FunctionMade,
    Gone,
    Locked,
    Registered,
    StatusAnswer,
    Versions,
)
from mepd.gateway.callers import ComputeCaller, ServiceDep
from mepd.gateway.dispatch import declare_command_queue, disconnect_endpoint
from mepd.gateway.failures import BrokerDown, forbidden, invalid, not_found, unavailable
from mepd.gateway.models import EndpointBody, FunctionBody, Uuid
from mepd.gateway.policy import enforce
from mepd.gateway.policy import store as policy_store
from mepd.gateway.policy.enforce import PolicyCache
from mepd.gateway.schema import DONE, SENT, STORED
from mepd.gateway.service import Service
from mepd.gateway.strict import StrictRoute

router = APIRouter(tags=["compute"], route_class=StrictRoute, responses=ERRORS)

API_VERSION = "1.0.0"
MIN_CLIENT_VERSION = "2.0.0"


@router.get("/v2/version", response_model=str | Versions)
async def version(service: str | None = Query(None, max_length=32)) -> Any:
    """What a client must at least be; without ``service=all`` only the API's version."""
    if service != "all":
        return API_VERSION
    return {
        "api": API_VERSION,
        "min_sdk_version": MIN_CLIENT_VERSION,
        "min_ep_version": MIN_CLIENT_VERSION,
        "min_endpoint_version": MIN_CLIENT_VERSION,
    }


# --- functions ------------------------------------------------------------------------
def packed_code(body: FunctionBody) -> str:
    """The function as one packed buffer: length, newline, text (globus_compute_sdk).

    Source text becomes what the SDK's PureSourceTextInspect makes: "st", name, source.
    """
    if body.serialized:
        return body.function_code
    buffer = f"st\n{body.function_name}:{body.function_code}"
    return f"{len(buffer)}\n{buffer}"


@router.post("/v2/functions", response_model=FunctionMade)
@router.post("/v3/functions", response_model=FunctionMade)
async def add_function(
    body: FunctionBody, caller: ComputeCaller, service: ServiceDep
) -> dict[str, str]:
    values = {
        "name": body.function_name,
        "code": packed_code(body),
        "description": body.description,
        "meta": body.meta,
        "public": body.public,
    }
    ident = await service.db.awrite(registry.add_function, caller.identity_id, values)
    return {"function_uuid": ident}


@router.get("/v2/functions/{function_id}", response_model=FunctionAnswer)
async def get_function(
    function_id: Uuid, caller: ComputeCaller, service: ServiceDep
) -> dict[str, Any]:
    found = await service.db.aread(registry.get_functions, [function_id], caller.identity_id)
    row = found.get(function_id)
    if row is None:
        raise not_found("Function", function_id)
    return {
        "function_uuid": row.id,
        "function_name": row.name,
        "function_code": row.code,
        "description": row.description,
        "metadata": row.meta,
        "public": row.public,
        "owner_uuid": row.owner,
    }


@router.delete("/v2/functions/{function_id}", response_model=Gone)
async def delete_function(
    function_id: Uuid, caller: ComputeCaller, service: ServiceDep
) -> dict[str, Any]:
    if not await service.db.awrite(registry.delete_function, function_id, caller.identity_id):
        raise not_found("Function", function_id)
    return {"result": 302}


# --- endpoints ------------------------------------------------------------------------
def _visible(tx: Connection, endpoint_id: str, caller: Caller, cache: PolicyCache) -> Row[Any]:
    """Its managers see an endpoint whatever its authentication policy says."""
    row = registry.get_endpoint(tx, endpoint_id)
    if row is None or not registry.may_see(row, caller.identity_id):
        raise not_found("Endpoint", endpoint_id)
    if not registry.may_manage(row, caller.identity_id):
        enforce.check(tx, cache, row, caller)
    return row


async def _endpoint(endpoint_id: Uuid, caller: ComputeCaller, service: ServiceDep) -> Row[Any]:
    """The endpoint, if the caller may see it. Raises ApiError 404, or PolicyError."""
    return await service.db.aread(_visible, endpoint_id, caller, service.policies)


VisibleEndpoint = Annotated[Row[Any], Depends(_endpoint)]


def _require_owner(row: Row[Any], caller: Caller) -> None:
    if row.owner != caller.identity_id:
        raise forbidden(f"Endpoint {row.id} belongs to another identity")


def _values(body: EndpointBody) -> dict[str, Any]:
    return {
        "name": body.endpoint_name,
        "display_name": body.display_name,
        "multi_user": body.multi_user,
        "public": body.public,
        "meta": body.metadata,
        "admins": body.admins or [],
        "allowed_functions": body.allowed_functions,
        "authentication_policy": body.authentication_policy,
        "high_assurance": body.high_assurance,
    }


def _check_policy(tx: Connection, values: dict[str, Any]) -> None:
    """Raises ApiError for a policy that is not there, or too weak for high assurance."""
    ident = values["authentication_policy"]
    policy = policy_store.load_policy(tx, ident) if ident is not None else None
    if ident is not None and policy is None:
        raise invalid(f"authentication_policy {ident} is not known here")
    if values["high_assurance"] and (policy is None or not policy.high_assurance):
        raise invalid("high_assurance needs an authentication_policy of high assurance")


def _register(
    tx: Connection, endpoint_id: str | None, owner: str, values: dict[str, Any]
) -> tuple[str, str, str]:
    """Id, and broker account with its password. Raises ApiError."""
    _check_policy(tx, values)
    registry.check_room(tx, endpoint_id, owner, values)
    if endpoint_id is None:
        endpoint_id = registry.add_endpoint(tx, owner, values)
    else:
        registry.update_endpoint(tx, endpoint_id, values)
    return endpoint_id, *brokeraccounts.issue(tx, brokeraccounts.MEP, endpoint_id)


async def _registered(
    service: Service, caller: Caller, body: EndpointBody, endpoint_id: str | None
) -> dict[str, Any]:
    """Write, declare the command queue, and answer with what the endpoint needs."""
    if not service.link.connected:
        raise unavailable("The broker is not connected")
    ident, username, password = await service.db.awrite(
        _register, endpoint_id, caller.identity_id, _values(body)
    )
    try:
        await declare_command_queue(service.link, ident)
    except BrokerDown as e:
        raise unavailable(str(e)) from None
    url = service.settings.public_broker.url(username, password)
    return names.mep_document(ident, url)


@router.post("/v3/endpoints", response_model=Registered)
async def add_endpoint(
    body: EndpointBody, caller: ComputeCaller, service: ServiceDep
) -> dict[str, Any]:
    """Register a new endpoint."""
    return await _registered(service, caller, body, None)


@router.put("/v3/endpoints/{endpoint_id}", response_model=Registered)
async def put_endpoint(
    endpoint: VisibleEndpoint, body: EndpointBody, caller: ComputeCaller, service: ServiceDep
) -> dict[str, Any]:
    """Register an endpoint again; it gets new broker credentials."""
    _require_owner(endpoint, caller)
    registry.check_lock(endpoint)
    return await _registered(service, caller, body, endpoint.id)


def endpoint_json(row: Row[Any], online: bool) -> dict[str, Any]:
    return {
        "uuid": row.id,
        "name": row.name,
        "display_name": row.display_name,
        "owner": row.owner,
        "owner_id": row.owner,
        "multi_user": row.multi_user,
        "public": row.public,
        "admins": row.admins,
        "allowed_functions": row.allowed_functions,
        "authentication_policy": row.authentication_policy,
        "high_assurance": row.high_assurance,
        "metadata": row.meta,
        "status": "online" if online else "offline",
    }


@router.get("/v2/endpoints", response_model=list[EndpointAnswer])
async def list_endpoints(
    caller: ComputeCaller, service: ServiceDep, role: Literal["owner", "any"] = "owner"
) -> list[dict[str, Any]]:
    rows = await service.db.aread(registry.list_endpoints, caller.identity_id, role == "any")
    return [endpoint_json(row, service.presence.online(row.id)) for row in rows]


@router.get("/v2/endpoints/{endpoint_id}", response_model=EndpointAnswer)
async def get_endpoint(endpoint: VisibleEndpoint, service: ServiceDep) -> dict[str, Any]:
    return endpoint_json(endpoint, service.presence.online(endpoint.id))


@router.get("/v2/endpoints/{endpoint_id}/status", response_model=StatusAnswer)
async def endpoint_status(endpoint: VisibleEndpoint, service: ServiceDep) -> dict[str, Any]:
    counts = await service.db.aread(taskstore.counts, endpoint.id)
    return {
        "status": "online" if service.presence.online(endpoint.id) else "offline",
        "details": {
            "total_tasks": sum(counts.values()),
            "outstanding_tasks": counts.get(STORED, 0) + counts.get(SENT, 0),
            "finished_tasks": counts.get(DONE, 0),
        },
    }


@router.get("/v3/endpoints/{endpoint_id}/allowed_functions", response_model=AllowedFunctions)
async def allowed_functions(endpoint: VisibleEndpoint) -> dict[str, Any]:
    allowed = endpoint.allowed_functions
    return {
        "endpoint_id": endpoint.id,
        "restricted": allowed is not None,
        "functions": allowed or [],
    }


def _lock(tx: Connection, endpoint_id: str, until: float) -> None:
    registry.update_endpoint(tx, endpoint_id, {"locked_until": until})
    brokeraccounts.drop(tx, brokeraccounts.MEP, endpoint_id)


async def _cut_off(service: Service, endpoint_id: str) -> None:
    """Its accounts have ended; what it is connected with ends now."""
    try:
        await disconnect_endpoint(service.link, endpoint_id)
    except BrokerDown as e:
        raise unavailable(str(e)) from None


@router.post("/v2/endpoints/{endpoint_id}/lock", response_model=Locked)
@router.post("/v3/endpoints/{endpoint_id}/lock", response_model=Locked)
async def lock_endpoint(
    endpoint: VisibleEndpoint, caller: ComputeCaller, service: ServiceDep
) -> dict[str, Any]:
    """Stop an endpoint from afar: it is disconnected, and for a while it can neither
    register nor be used."""
    if not registry.may_manage(endpoint, caller.identity_id):
        raise forbidden(f"Endpoint {endpoint.id} belongs to another identity")
    await service.db.awrite(_lock, endpoint.id, time.time() + registry.LOCK_S)
    await _cut_off(service, endpoint.id)
    return {"endpoint_id": endpoint.id, "locked_for": registry.LOCK_S}


def _delete(tx: Connection, endpoint_id: str) -> None:
    registry.update_endpoint(tx, endpoint_id, {"deleted": True})
    brokeraccounts.drop(tx, brokeraccounts.MEP, endpoint_id)


@router.delete("/v2/endpoints/{endpoint_id}", response_model=Gone)
async def delete_endpoint(
    endpoint: VisibleEndpoint, caller: ComputeCaller, service: ServiceDep
) -> dict[str, Any]:
    """The endpoint can be used no more; its broker credentials end."""
    _require_owner(endpoint, caller)
    await service.db.awrite(_delete, endpoint.id)
    await _cut_off(service, endpoint.id)
    return {"result": 302}
