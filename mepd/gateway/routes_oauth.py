"""The part of OAuth 2.0 that clients need: RFC 6749 section 4.4, 7009, 7662, userinfo.

Each grant type is one function of GRANTS; the interactive ones get their place there.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qsl, unquote_plus

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse
from sqlalchemy import Connection

from mepd.errors import MepdError
from mepd.gateway import accounts
from mepd.gateway.callers import AuthCaller, ServiceDep
from mepd.gateway.service import Service

router = APIRouter(tags=["auth"])

AUTH_SERVER = "auth.globus.org"
COMPUTE_SERVER = "funcx_service"
_AUTH_SCOPES = ("openid", "email", "profile")
_AUTH_SCOPE_PREFIX = "urn:globus:auth:scope:auth.globus.org:"
_NO_STORE = {"Cache-Control": "no-store"}


class OAuthError(MepdError):
    """RFC 6749 section 5.2."""

    def __init__(self, error: str, description: str, status: int = 400) -> None:
        super().__init__(description)
        self.error = error
        self.description = description
        self.status = status

    def response(self) -> JSONResponse:
        headers = {"WWW-Authenticate": "Basic"} if self.status == 401 else {}
        body = {"error": self.error, "error_description": self.description}
        return JSONResponse(body, self.status, {**_NO_STORE, **headers})


@dataclass(frozen=True)
class Client:
    id: str
    identity_id: str


async def _form(request: Request) -> dict[str, str]:
    try:
        text = (await request.body()).decode("ascii")
        return dict(parse_qsl(text, keep_blank_values=True, max_num_fields=50, errors="strict"))
    except ValueError:
        raise OAuthError("invalid_request", "the body is no form") from None


def _basic(header: str) -> tuple[str, str]:
    scheme, _, value = header.partition(" ")
    try:
        if scheme.lower() != "basic":
            raise ValueError
        text = base64.b64decode(value.strip(), validate=True).decode()
        user, _, password = text.partition(":")
    except (ValueError, binascii.Error):
        raise OAuthError("invalid_client", "bad Authorization header", 401) from None
    return unquote_plus(user), unquote_plus(password)


async def _client(service: Service, request: Request, form: dict[str, str]) -> Client:
    """The client that authenticates by Basic or by the form. Raises OAuthError."""
    header = request.headers.get("authorization")
    if header is not None:
        client_id, secret = _basic(header)
    else:
        client_id, secret = form.get("client_id", ""), form.get("client_secret", "")
    if "\x00" in client_id or not client_id.isascii():
        raise OAuthError("invalid_client", "unknown client or wrong secret", 401)
    identity = await service.db.aread(accounts.check_client, client_id.lower(), secret)
    if identity is None:
        raise OAuthError("invalid_client", "unknown client or wrong secret", 401)
    return Client(client_id.lower(), identity)


def resource_server(scope: str) -> str | None:
    """Whose scope it is; None for one that this service does not know."""
    if scope == accounts.COMPUTE_SCOPE:
        return COMPUTE_SERVER
    if scope in _AUTH_SCOPES or scope.startswith(_AUTH_SCOPE_PREFIX):
        return AUTH_SERVER
    return None


def group_scopes(text: str) -> dict[str, list[str]]:
    """Resource server -> scopes, in the order asked. Raises OAuthError."""
    groups: dict[str, list[str]] = {}
    for scope in text.split() or [accounts.COMPUTE_SCOPE]:
        server = resource_server(scope)
        if server is None or len(scope) > 256 or not scope.isprintable():
            raise OAuthError("invalid_scope", "the service knows no such scope")
        if scope not in groups.setdefault(server, []):
            groups[server].append(scope)
    return groups


def _grant(
    tx: Connection, client: Client, groups: dict[str, list[str]], lifetime: float
) -> list[dict[str, Any]]:
    """One token for each resource server."""
    answers = []
    for server, scopes in groups.items():
        scope = " ".join(scopes)
        _, token = accounts.add_token(tx, client.identity_id, lifetime, scope, client.id)
        answers.append(
            {
                "access_token": token,
                "scope": scope,
                "expires_in": int(lifetime),
                "token_type": "Bearer",
                "resource_server": server,
            }
        )
    return answers


async def _client_credentials(
    service: Service, client: Client, form: dict[str, str]
) -> dict[str, Any]:
    groups = group_scopes(form.get("scope", ""))
    first, *others = await service.db.awrite(
        _grant, client, groups, service.settings.token_lifetime
    )
    return {**first, "other_tokens": others}


Grant = Callable[[Service, Client, dict[str, str]], Awaitable[dict[str, Any]]]
GRANTS: dict[str, Grant] = {"client_credentials": _client_credentials}


@router.post("/v2/oauth2/token")
async def token(request: Request, service: ServiceDep) -> JSONResponse:
    """Tokens for a client that proves its secret."""
    form = await _form(request)
    grant = GRANTS.get(form.get("grant_type", ""))
    if grant is None:
        raise OAuthError("unsupported_grant_type", "the service knows no such grant type")
    client = await _client(service, request, form)
    return JSONResponse(await grant(service, client, form), headers=_NO_STORE)


@router.post("/v2/oauth2/token/revoke")
async def revoke(request: Request, service: ServiceDep) -> JSONResponse:
    """RFC 7009: the answer does not tell whether the token was known."""
    form = await _form(request)
    client = await _client(service, request, form)
    await service.db.awrite(accounts.revoke_own, form.get("token", ""), client.id)
    return JSONResponse({"active": False}, headers=_NO_STORE)


@router.post("/v2/oauth2/token/introspect")
async def introspect(request: Request, service: ServiceDep) -> JSONResponse:
    """RFC 7662, for the client's own tokens."""
    form = await _form(request)
    client = await _client(service, request, form)
    facts = await service.db.aread(accounts.token_facts, form.get("token", ""))
    if facts.get("client_id") != client.id:
        facts = {"active": False}
    return JSONResponse(facts, headers=_NO_STORE)


@router.get("/v2/oauth2/userinfo")
@router.post("/v2/oauth2/userinfo")
async def userinfo(caller: AuthCaller, service: ServiceDep) -> dict[str, Any]:
    """The caller, and his linked identities."""
    linked = await service.db.aread(accounts.identity_set, caller.person)
    me = next(i for i in linked if i["sub"] == caller.identity_id)
    return {
        "sub": me["sub"],
        "preferred_username": me["username"],
        "name": me["name"],
        "email": me["email"],
        "organization": me["organization"],
        "identity_provider": me["identity_provider"],
        "identity_set": linked,
    }


@router.get("/v2/api/identities")
async def identities(
    _caller: AuthCaller, service: ServiceDep, ids: str = "", usernames: str = ""
) -> dict[str, Any]:
    """Identities by id or user name (comma lists, at most 500)."""
    wanted = [[v for v in text.split(",")[:500] if v.isprintable()] for text in (ids, usernames)]
    found = await service.db.aread(accounts.look_up, *wanted)
    return {"identities": found}
