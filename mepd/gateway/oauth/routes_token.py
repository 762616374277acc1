"""Tokens: issued (RFC 6749), refreshed, revoked (RFC 7009), looked into (RFC 7662).

Each grant type is one function of GRANTS.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse
from sqlalchemy import Connection

from mepd.gateway.answers import REFUSALS
from mepd.gateway import accounts
from mepd.gateway.callers import ServiceDep
from mepd.gateway.login import sessions
from mepd.gateway.oauth import grants, idtoken
from mepd.gateway.oauth.errors import NO_STORE, OAuthError
from mepd.gateway.oauth.forms import Client, client_of, read_form
from mepd.gateway.oauth.grants import Issued, Lifetimes, token_json
from mepd.gateway.oauth.idtoken import Signer
from mepd.gateway.oauth.scopes import AUTH_SERVER, group_scopes
from mepd.gateway.service import Service

router = APIRouter(tags=["auth"], responses=REFUSALS)


def _lifetimes(service: Service) -> Lifetimes:
    return Lifetimes(service.settings.token_lifetime, service.settings.refresh_lifetime)


# --- client credentials ---------------------------------------------------------------
def _grant_client(
    tx: Connection, client: Client, groups: dict[str, list[str]], lifetime: float
) -> list[dict[str, Any]]:
    """One token for each resource server."""
    assert client.identity_id is not None
    answers = []
    for server, scopes in groups.items():
        scope = " ".join(scopes)
        _, token = accounts.add_token(tx, client.identity_id, lifetime, scope, client.id)
        answers.append(token_json(token, scope, server, lifetime))
    return answers


async def _client_credentials(
    service: Service, client: Client, form: dict[str, str]
) -> dict[str, Any]:
    if client.identity_id is None:
        raise OAuthError("unauthorized_client", "this client has no secret")
    service.rates.take(client.identity_id)
    groups = group_scopes(form.get("scope", ""))
    lifetime = service.settings.token_lifetime
    first, *others = await service.db.awrite(_grant_client, client, groups, lifetime)
    return {**first, "other_tokens": others}


# --- a person's grant -----------------------------------------------------------------
@dataclass(frozen=True)
class _Granted:
    """Tokens, the identity that they are for, and when it has logged in."""

    issued: Issued
    identity: dict[str, Any]
    auth_time: float | None


def _about(tx: Connection, issued: Issued) -> _Granted:
    row = accounts.find_identity(tx, issued.identity_id)
    proofs = sessions.authentications_of(tx, issued.session_id)
    when = max((proof.time for proof in proofs), default=0.0)
    return _Granted(issued, accounts.identity_json(row), when or None)


async def _granted(
    service: Service, client: Client, grant: Callable[..., Issued | None], *args: Any
) -> dict[str, Any] | None:
    """The token answer, with an id token where the scope openid is granted; None if ``grant``
    refuses.

    It asks the store for all else before: a code or refresh token that is spent without an
    answer would come a second time, as if it were stolen.
    """
    signer = await service.desk.signer()

    def work(tx: Connection) -> _Granted | None:
        issued = grant(tx, *args)
        return None if issued is None else _about(tx, issued)

    found = await service.db.awrite(work)
    return None if found is None else _answer(service, client, found, signer)


def _answer(
    service: Service, client: Client, granted: _Granted, signer: Signer
) -> dict[str, Any]:
    first, *others = granted.issued.tokens
    answer = {**first, "other_tokens": others}
    for token in granted.issued.tokens:
        if token["resource_server"] == AUTH_SERVER and "openid" in token["scope"].split():
            answer["id_token"] = signer.sign(
                idtoken.claims(
                    service.settings.public_url,
                    client.id,
                    granted.identity,
                    token["access_token"],
                    granted.auth_time,
                    granted.issued.nonce,
                )
            )
    return answer


async def _authorization_code(
    service: Service, client: Client, form: dict[str, str]
) -> dict[str, Any]:
    answer = await _granted(
        service,
        client,
        grants.redeem_code,
        form.get("code", ""),
        client.id,
        form.get("redirect_uri", ""),
        form.get("code_verifier", ""),
        _lifetimes(service),
    )
    if answer is None:
        raise OAuthError("invalid_grant", "the code is unknown, used, expired or not for this")
    return answer


async def _refresh_token(
    service: Service, client: Client, form: dict[str, str]
) -> dict[str, Any]:
    secret = form.get("refresh_token", "")
    holder = await service.db.aread(grants.holder, secret)
    if holder is not None:
        service.rates.take(holder)
    lifetimes = _lifetimes(service)
    answer = await _granted(service, client, grants.refresh, secret, client.id, lifetimes)
    if answer is None:
        raise OAuthError("invalid_grant", "the refresh token is unknown, used, expired or revoked")
    return answer


Grant = Callable[[Service, Client, dict[str, str]], Awaitable[dict[str, Any]]]
GRANTS: dict[str, Grant] = {
    "authorization_code": _authorization_code,
    "client_credentials": _client_credentials,
    "refresh_token": _refresh_token,
}


@router.post("/v2/oauth2/token")
async def token(request: Request, service: ServiceDep) -> JSONResponse:
    """Tokens for a client's secret, a code, or a refresh token."""
    form = await read_form(request)
    grant = GRANTS.get(form.get("grant_type", ""))
    if grant is None:
        raise OAuthError("unsupported_grant_type", "the service knows no such grant type")
    client = await client_of(service, request, form)
    return JSONResponse(await grant(service, client, form), headers=NO_STORE)


@router.post("/v2/oauth2/token/revoke")
async def revoke(request: Request, service: ServiceDep) -> JSONResponse:
    """RFC 7009: the answer does not tell whether the token was known."""
    form = await read_form(request)
    client = await client_of(service, request, form)
    if client.identity_id is not None:
        service.rates.take(client.identity_id)
    await service.db.awrite(grants.revoke, form.get("token", ""), client.id)
    return JSONResponse({"active": False}, headers=NO_STORE)


def _facts(
    tx: Connection, secret: str, client_id: str, include: set[str], issuer: str
) -> dict[str, Any]:
    facts = accounts.token_facts(tx, secret)
    who = accounts.caller(tx, secret)
    if who is None or who.client_id != client_id:
        return {"active": False}
    row = accounts.find_identity(tx, who.identity_id)
    linked = accounts.identity_set(tx, who.person)
    facts.update(iss=issuer, aud=[client_id], name=row.name, email=row.email, nbf=facts["iat"])
    if "identity_set" in include:
        facts["identity_set"] = [identity["sub"] for identity in linked]
    if "identity_set_detail" in include:
        facts["identity_set_detail"] = linked
    if "session_info" in include:
        proofs = sessions.authentications_of(tx, who.session_id) if who.session_id else ()
        facts["session_info"] = {
            "session_id": who.session_id,
            "authentications": {p.identity_id: {"auth_time": int(p.time)} for p in proofs},
        }
    return facts


@router.post("/v2/oauth2/token/introspect")
async def introspect(request: Request, service: ServiceDep) -> JSONResponse:
    """RFC 7662, for the own tokens of a client with a secret."""
    form = await read_form(request)
    client = await client_of(service, request, form)
    if client.identity_id is None:
        raise OAuthError("invalid_client", "unknown client or wrong secret", 401)
    service.rates.take(client.identity_id)
    include = {word.strip() for word in form.get("include", "").split(",")}
    facts = await service.db.aread(
        _facts, form.get("token", ""), client.id, include, service.settings.public_url
    )
    return JSONResponse(facts, headers=NO_STORE)
