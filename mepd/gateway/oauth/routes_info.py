"""Who somebody is, and what the service is: OpenID Connect's documents and userinfo."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter

from mepd.gateway.answers import REFUSALS
from mepd.gateway import accounts
from mepd.gateway.callers import AuthCaller, ConsentsCaller, ServiceDep
from mepd.gateway.failures import forbidden
from mepd.gateway.login.browser import AUTHORIZE
from mepd.gateway.models import Uuid
from mepd.gateway.oauth import consents
from mepd.gateway.oauth.routes_token import GRANTS
from mepd.gateway.oauth.scopes import DESCRIPTIONS
from mepd.gateway.policy import store

router = APIRouter(tags=["auth"], responses=REFUSALS)

VIEW_CONSENTS = "urn:globus:auth:scope:auth.globus.org:view_consents"


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


@router.get("/v2/api/identities/{identity_id}/consents")
async def identity_consents(
    identity_id: Uuid, caller: ConsentsCaller, service: ServiceDep
) -> dict[str, Any]:
    """What the caller's identity has agreed to: for the client that asks, or, with the
    scope view_consents, for all."""
    mine = await service.db.aread(store.linked_ids, caller.person)
    if identity_id not in mine:
        raise forbidden("The consents of another identity are not shown")
    client_id = None if VIEW_CONSENTS in caller.scopes else caller.client_id or ""
    return {"consents": await service.db.aread(consents.listed, identity_id, client_id)}


@router.get("/.well-known/openid-configuration")
async def openid_configuration(service: ServiceDep) -> dict[str, Any]:
    """OpenID Connect Discovery 1.0."""
    url = service.settings.public_url
    return {
        "issuer": url,
        "authorization_endpoint": url + AUTHORIZE,
        "token_endpoint": f"{url}/v2/oauth2/token",
        "revocation_endpoint": f"{url}/v2/oauth2/token/revoke",
        "introspection_endpoint": f"{url}/v2/oauth2/token/introspect",
        "userinfo_endpoint": f"{url}/v2/oauth2/userinfo",
        "jwks_uri": f"{url}/jwk.json",
        "response_types_supported": ["code"],
        "response_modes_supported": ["query"],
        "grant_types_supported": sorted(GRANTS),
        "subject_types_supported": ["public"],
        "id_token_signing_alg_values_supported": ["RS256"],
        "code_challenge_methods_supported": ["S256"],
        "token_endpoint_auth_methods_supported": [
            "client_secret_basic",
            "client_secret_post",
            "none",
        ],
        "scopes_supported": list(DESCRIPTIONS),
        "claims_supported": [
            *("iss", "sub", "aud", "exp", "iat", "auth_time", "nonce", "at_hash"),
            *("name", "email", "preferred_username", "organization", "identity_provider"),
        ],
    }


@router.get("/jwk.json")
async def jwk(service: ServiceDep) -> dict[str, Any]:
    """The public keys of id tokens, the current one first (RFC 7517)."""
    return {"keys": list((await service.desk.signer()).public)}
