"""Who makes a request: the bearer token, and the scopes a route needs."""

from __future__ import annotations

from typing import Annotated

from fastapi import Depends, Request, Security
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from mepd.gateway import accounts, keys
from mepd.gateway.accounts import Caller
from mepd.gateway.failures import forbidden, unauthenticated
from mepd.gateway.oauth.scopes import AUTH_SERVER, MANAGE_PROJECTS, resource_server
from mepd.gateway.service import Service

_bearer = HTTPBearer(auto_error=False, description="A token of this service")


def service_of(request: Request) -> Service:
    service: Service = request.app.state.service
    return service


ServiceDep = Annotated[Service, Depends(service_of)]


async def any_caller(
    service: ServiceDep,
    bearer: Annotated[HTTPAuthorizationCredentials | None, Security(_bearer)],
) -> Caller:
    """Raises ApiError 401, or 429 for one who asks too often."""
    if bearer is None:
        raise unauthenticated()
    digest = keys.digest(bearer.credentials)
    counted = service.rates.take_early(digest)
    caller = await service.db.aread(accounts.caller, bearer.credentials)
    if caller is None:
        service.rates.forget(digest)
        raise unauthenticated()
    if not counted:
        service.rates.learn(digest, caller.identity_id)
        service.rates.take(caller.identity_id)
    return caller


async def compute_caller(caller: Annotated[Caller, Depends(any_caller)]) -> Caller:
    """Raises ApiError 401, or 403 for a token of another scope."""
    if accounts.COMPUTE_SCOPE not in caller.scopes:
        raise forbidden("The token lacks the scope of the compute service")
    return caller


async def auth_caller(caller: Annotated[Caller, Depends(any_caller)]) -> Caller:
    """Raises ApiError 401, or 403 for a token of another scope."""
    if "openid" not in caller.scopes:
        raise forbidden("The token lacks the scope openid")
    return caller


async def project_caller(caller: Annotated[Caller, Depends(any_caller)]) -> Caller:
    """Raises ApiError 401, or 403 for a token of another scope."""
    if MANAGE_PROJECTS not in caller.scopes:
        raise forbidden("The token lacks the scope manage_projects")
    return caller


async def consents_caller(caller: Annotated[Caller, Depends(any_caller)]) -> Caller:
    """Raises ApiError 401, or 403 for a token without any scope of the auth service."""
    if not any(resource_server(scope) == AUTH_SERVER for scope in caller.scopes):
        raise forbidden("The token lacks a scope of the auth service")
    return caller


ConsentsCaller = Annotated[Caller, Depends(consents_caller)]
ComputeCaller = Annotated[Caller, Depends(compute_caller)]
AuthCaller = Annotated[Caller, Depends(auth_caller)]
ProjectCaller = Annotated[Caller, Depends(project_caller)]
