"""Codes, refresh tokens and the grants they belong to.

All tokens of one login for one client are a family, its grant. A refresh token works once
and brings its successor; one that comes a second time was stolen, by whoever has used it
first or by who uses it now, so the family ends (RFC 9700 section 4.14.2). The same holds
for a code (RFC 6749 section 4.1.2).

The functions return what is refused instead of raising: a refusal, too, is written.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Row, or_, select, update

from mepd.gateway import accounts, keys
from mepd.gateway.authschema import authentications, codes, grants, refresh_tokens
from mepd.gateway.oauth.scopes import group_scopes, resource_server
from mepd.gateway.schema import identities, tokens

CODE_LIFETIME_S = 600.0
_VERIFIER = re.compile(r"[A-Za-z0-9._~-]{43,128}")
_CHALLENGE = re.compile(r"[A-Za-z0-9_-]{43}")


@dataclass(frozen=True)
class Lifetimes:
    """In seconds."""

    access: float
    refresh: float


@dataclass(frozen=True)
class Request:
    """What a person has agreed to."""

    client_id: str
    identity_id: str
    session_id: str
    redirect_uri: str
    scope: str
    challenge: str | None
    nonce: str | None
    offline: bool


@dataclass(frozen=True)
class Issued:
    """Tokens as the answer shows them, one for each resource server."""

    tokens: list[dict[str, Any]]
    identity_id: str
    session_id: str
    nonce: str | None = None


def is_challenge(text: str) -> bool:
    """Whether it can be a PKCE challenge by S256."""
    return _CHALLENGE.fullmatch(text) is not None


def verifier_matches(verifier: str, challenge: str) -> bool:
    """RFC 7636 section 4.6, method S256."""
    if not _VERIFIER.fullmatch(verifier):
        return False
    made = base64.urlsafe_b64encode(hashlib.sha256(verifier.encode("ascii")).digest())
    return hmac.compare_digest(made.rstrip(b"=").decode("ascii"), challenge)


def add_code(tx: Connection, request: Request) -> str:
    """A new code, which is shown only now."""
    code = keys.new_secret()
    tx.execute(
        codes.insert().values(
            hash=keys.digest(code),
            client_id=request.client_id,
            identity_id=request.identity_id,
            session_id=request.session_id,
            redirect_uri=request.redirect_uri,
            scope=request.scope,
            challenge=request.challenge,
            nonce=request.nonce,
            offline=request.offline,
            expires=time.time() + CODE_LIFETIME_S,
            used=False,
        )
    )
    return code


def revoke_grant(tx: Connection, grant_id: str) -> None:
    """The family ends: its access and refresh tokens with it."""
    tx.execute(update(grants).where(grants.c.id == grant_id).values(revoked=True))
    tx.execute(update(tokens).where(tokens.c.grant_id == grant_id).values(revoked=True))
    tx.execute(refresh_tokens.delete().where(refresh_tokens.c.grant_id == grant_id))


def _is_active(tx: Connection, identity_id: str) -> bool:
    status = tx.execute(select(identities.c.status).where(identities.c.id == identity_id)).scalar()
    return status is not None and status != accounts.CLOSED


def _issue(
    tx: Connection,
    grant: Row[Any],
    groups: Mapping[str, Sequence[str]],
    lifetimes: Lifetimes,
    offline: bool,
) -> list[dict[str, Any]]:
    """An access token for each resource server, with a refresh token if ``offline``."""
    answers = []
    for server, names in groups.items():
        scope = " ".join(names)
        _, token = accounts.add_token(
            tx, grant.identity_id, lifetimes.access, scope, grant.client_id, grant.id
        )
        answer = token_json(token, scope, server, lifetimes.access)
        if offline:
            answer["refresh_token"] = keys.new_secret()
            tx.execute(
                refresh_tokens.insert().values(
                    hash=keys.digest(answer["refresh_token"]),
                    grant_id=grant.id,
                    scope=scope,
                    expires=time.time() + lifetimes.refresh,
                    used=False,
                )
            )
        answers.append(answer)
    return answers


def token_json(token: str, scope: str, server: str, lifetime: float) -> dict[str, Any]:
    """An access token as a token answer shows it."""
    return {
        "access_token": token,
        "scope": scope,
        "expires_in": int(lifetime),
        "token_type": "Bearer",
        "resource_server": server,
    }


def _verified(row: Row[Any], client_id: str, redirect_uri: str, verifier: str) -> bool:
    if row.client_id != client_id or row.redirect_uri != redirect_uri:
        return False
    if row.challenge is None:
        return not verifier
    return verifier_matches(verifier, row.challenge)


def redeem_code(
    tx: Connection,
    code: str,
    client_id: str,
    redirect_uri: str,
    verifier: str,
    lifetimes: Lifetimes,
) -> Issued | None:
    """The tokens for a code; None if it is refused. Either way it works no more."""
    match = codes.c.hash == keys.digest(code)
    row = tx.execute(select(codes).where(match).with_for_update()).first()
    if row is None:
        return None
    if row.used:
        if row.grant_id is not None:
            revoke_grant(tx, row.grant_id)
        return None
    grant_id = str(uuid.uuid4())
    good = _verified(row, client_id, redirect_uri, verifier)
    good = good and row.expires > time.time() and _is_active(tx, row.identity_id)
    values = {"used": True, "grant_id": grant_id if good else None}
    tx.execute(update(codes).where(match).values(**values))
    if not good:
        return None
    tx.execute(
        grants.insert().values(
            id=grant_id,
            identity_id=row.identity_id,
            client_id=client_id,
            session_id=row.session_id,
            created=time.time(),
            revoked=False,
        )
    )
    grant = tx.execute(select(grants).where(grants.c.id == grant_id)).one()
    made = _issue(tx, grant, group_scopes(row.scope), lifetimes, row.offline)
    return Issued(made, row.identity_id, row.session_id, row.nonce)


def holder(tx: Connection, secret: str) -> str | None:
    """The identity that a refresh token, used or not, is of."""
    query = (
        select(grants.c.identity_id)
        .join(refresh_tokens, refresh_tokens.c.grant_id == grants.c.id)
        .where(refresh_tokens.c.hash == keys.digest(secret))
    )
    found: str | None = tx.execute(query).scalar()
    return found


def refresh(tx: Connection, secret: str, client_id: str, lifetimes: Lifetimes) -> Issued | None:
    """A new access token and the refresh token's successor; None if it is refused."""
    match = refresh_tokens.c.hash == keys.digest(secret)
    row = tx.execute(select(refresh_tokens).where(match).with_for_update()).first()
    if row is None:
        return None
    grant = tx.execute(select(grants).where(grants.c.id == row.grant_id)).one()
    if row.used or grant.client_id != client_id:
        revoke_grant(tx, grant.id)
        return None
    if grant.revoked or row.expires <= time.time() or not _is_active(tx, grant.identity_id):
        return None
    tx.execute(update(refresh_tokens).where(match).values(used=True))
    server = resource_server(row.scope.split()[0])
    assert server is not None
    made = _issue(tx, grant, {server: row.scope.split()}, lifetimes, True)
    return Issued(made, grant.identity_id, grant.session_id)


def revoke(tx: Connection, secret: str, client_id: str) -> None:
    """RFC 7009: an access token alone, a refresh token with its family; silent otherwise."""
    accounts.revoke_own(tx, secret, client_id)
    query = (
        select(grants.c.id)
        .join(refresh_tokens, refresh_tokens.c.grant_id == grants.c.id)
        .where(refresh_tokens.c.hash == keys.digest(secret), grants.c.client_id == client_id)
    )
    grant_id = tx.execute(query).scalar()
    if grant_id is not None:
        revoke_grant(tx, grant_id)


def revoke_grants_of(tx: Connection, identity_id: str) -> None:
    """Every grant of this identity ends, and those of its sessions that act for another; codes
    from which there would be more work no longer."""
    mine = select(authentications.c.session_id).where(
        authentications.c.identity_id == identity_id
    )
    match = or_(codes.c.identity_id == identity_id, codes.c.session_id.in_(mine))
    tx.execute(update(codes).where(match).values(used=True))
    match = or_(grants.c.identity_id == identity_id, grants.c.session_id.in_(mine))
    for grant_id in list(tx.execute(select(grants.c.id).where(match)).scalars()):
        revoke_grant(tx, grant_id)


def revoke_all_of(tx: Connection, identity_id: str) -> None:
    """Every grant and token of this identity ends."""
    revoke_grants_of(tx, identity_id)
    match = tokens.c.identity_id == identity_id
    tx.execute(update(tokens).where(match).values(revoked=True))


def purge(tx: Connection, now: float) -> None:
    """Forget codes and refresh tokens that are over, and grants that have nothing left."""
    tx.execute(codes.delete().where(codes.c.expires < now - CODE_LIFETIME_S))
    tx.execute(refresh_tokens.delete().where(refresh_tokens.c.expires < now))
    left = [
        select(table.c.grant_id).where(table.c.grant_id == grants.c.id).exists()
        for table in (tokens, refresh_tokens, codes)
    ]
    tx.execute(grants.delete().where(~or_(*left)))
