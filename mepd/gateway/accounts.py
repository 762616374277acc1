"""Identities, clients and tokens in the store."""

from __future__ import annotations

import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Row, or_, select, update
from sqlalchemy.exc import IntegrityError

from mepd.errors import ConfigError
from mepd.gateway import keys
from mepd.gateway.authschema import grants
from mepd.gateway.schema import clients, identities, tokens

COMPUTE_SCOPE = "https://auth.globus.org/scopes/facd7ccc-c5f4-42aa-916b-a0e270e2c2a9/all"
USED = "used"
CLOSED = "closed"
"""The states of an identity: a closed one is refused everywhere."""
LOCAL_PROVIDER = "6f1e7c0a-6d65-4a70-8000-000000000001"


@dataclass(frozen=True)
class Caller:
    """Who makes a request: the identity of its token, and the token's scopes.

    ``session_id``: of the login that the token comes from; None for a token of a client or
    of the administrator.
    """

    identity_id: str
    person: str
    username: str
    scopes: frozenset[str]
    client_id: str | None
    session_id: str | None = None


def identity_json(row: Row[Any]) -> dict[str, Any]:
    """An identity as the service shows it; both "id" and "sub" name it."""
    return {
        "sub": row.id,
        "id": row.id,
        "username": row.username,
        "name": row.name,
        "email": row.email,
        "organization": row.organization,
        "identity_provider": row.identity_provider,
        "identity_type": row.identity_type,
        "status": row.status,
    }


def add_identity(
    tx: Connection,
    username: str,
    name: str | None = None,
    email: str | None = None,
    organization: str | None = None,
    ident: str | None = None,
) -> str:
    """Returns the new identity's id. Raises ConfigError if the name or id is taken."""
    new = ident or str(uuid.uuid4())
    try:
        tx.execute(
            identities.insert().values(
                id=new,
                person=new,
                username=username,
                name=name,
                email=email,
                organization=organization,
                identity_provider=LOCAL_PROVIDER,
                identity_type="login",
                status=USED,
            )
        )
    except IntegrityError:
        raise ConfigError(f"an identity {username!r} or with that id exists") from None
    return new


def find_identity(tx: Connection, key: str) -> Row[Any]:
    """The identity with this id or username. Raises ConfigError."""
    query = select(identities).where(or_(identities.c.id == key, identities.c.username == key))
    row = tx.execute(query).first()
    if row is None:
        raise ConfigError(f"no identity {key!r}")
    return row


def link_identities(tx: Connection, first: str, second: str) -> None:
    """Make the two, and all linked to either, one person. Raises ConfigError."""
    a, b = find_identity(tx, first), find_identity(tx, second)
    tx.execute(
        update(identities).where(identities.c.person == b.person).values(person=a.person)
    )


def unlink_identity(tx: Connection, key: str) -> None:
    """Make it a person of its own; the others stay linked. Raises ConfigError."""
    row = find_identity(tx, key)
    mates = identities.c.person == row.person
    others = select(identities.c.id).where(mates, identities.c.id != row.id)
    left = list(tx.execute(others.order_by(identities.c.username)).scalars())
    if left and row.id == row.person:
        tx.execute(update(identities).where(identities.c.id.in_(left)).values(person=left[0]))
    tx.execute(update(identities).where(identities.c.id == row.id).values(person=row.id))


def list_identities(tx: Connection) -> Sequence[Row[Any]]:
    return tx.execute(select(identities).order_by(identities.c.username)).all()


def identity_set(tx: Connection, person: str) -> list[dict[str, Any]]:
    """The linked identities of one person."""
    query = select(identities).where(identities.c.person == person).order_by(identities.c.username)
    return [identity_json(row) for row in tx.execute(query)]


def look_up(tx: Connection, ids: list[str], usernames: list[str]) -> list[dict[str, Any]]:
    query = select(identities).where(
        or_(identities.c.id.in_(ids), identities.c.username.in_(usernames))
    )
    return [identity_json(row) for row in tx.execute(query)]


def add_client(tx: Connection, identity: str, name: str | None = None) -> tuple[str, str]:
    """A new client of the identity: its id, and its secret, which is shown only now."""
    row = find_identity(tx, identity)
    client_id, secret = str(uuid.uuid4()), keys.new_secret()
    tx.execute(
        clients.insert().values(
            id=client_id,
            identity_id=row.id,
            name=name,
            secret_hash=keys.digest(secret),
            created=time.time(),
            revoked=False,
        )
    )
    return client_id, secret


def list_clients(tx: Connection) -> Sequence[Row[Any]]:
    query = select(clients, identities.c.username).join(
        identities, identities.c.id == clients.c.identity_id
    )
    return tx.execute(query.order_by(clients.c.created)).all()


def revoke_client(tx: Connection, client_id: str) -> None:
    """The client and its tokens end. Raises ConfigError if it is unknown."""
    done = tx.execute(update(clients).where(clients.c.id == client_id).values(revoked=True))
    if done.rowcount == 0:
        raise ConfigError(f"no client {client_id!r}")
    tx.execute(update(tokens).where(tokens.c.client_id == client_id).values(revoked=True))


def check_client(tx: Connection, client_id: str, secret: str) -> str | None:
    """The identity of the client if the secret is right, else None."""
    query = select(clients, identities.c.status).join(
        identities, identities.c.id == clients.c.identity_id
    )
    row = tx.execute(query.where(clients.c.id == client_id)).first()
    stored = row.secret_hash if row is not None else keys.digest("")
    good = keys.matches(secret, stored)
    if row is None or not good or row.revoked or row.status == CLOSED:
        return None
    identity: str = row.identity_id
    return identity


def add_token(
    tx: Connection,
    identity: str,
    lifetime: float,
    scope: str,
    client_id: str | None = None,
    grant_id: str | None = None,
) -> tuple[str, str]:
    """A new token: its id (for revocation), and itself, shown only now.

    ``lifetime`` is in seconds.
    """
    row = find_identity(tx, identity)
    token, ident, now = keys.new_secret(), str(uuid.uuid4()), time.time()
    tx.execute(
        tokens.insert().values(
            hash=keys.digest(token),
            id=ident,
            identity_id=row.id,
            client_id=client_id,
            grant_id=grant_id,
            scope=scope,
            created=now,
            expires=now + lifetime,
            revoked=False,
        )
    )
    return ident, token


def list_tokens(tx: Connection) -> Sequence[Row[Any]]:
    query = select(tokens, identities.c.username).join(
        identities, identities.c.id == tokens.c.identity_id
    )
    return tx.execute(query.order_by(tokens.c.created)).all()


def revoke_token(tx: Connection, ident: str) -> None:
    """By the token's id or by itself. Raises ConfigError if it is unknown."""
    match = or_(tokens.c.id == ident, tokens.c.hash == keys.digest(ident))
    if tx.execute(update(tokens).where(match).values(revoked=True)).rowcount == 0:
        raise ConfigError("no such token")


def revoke_own(tx: Connection, token: str, client_id: str | None) -> None:
    """RFC 7009: revoke ``token`` if it is that client's; silent otherwise."""
    match = (tokens.c.hash == keys.digest(token)) & (tokens.c.client_id == client_id)
    tx.execute(update(tokens).where(match).values(revoked=True))


def caller(tx: Connection, token: str) -> Caller | None:
    """Who holds this token; None if it is unknown, expired or revoked."""
    query = (
        select(
            tokens,
            identities.c.person,
            identities.c.username,
            identities.c.status,
            grants.c.session_id,
        )
        .join(identities, identities.c.id == tokens.c.identity_id)
        .outerjoin(grants, grants.c.id == tokens.c.grant_id)
        .where(tokens.c.hash == keys.digest(token))
    )
    row = tx.execute(query).first()
    if row is None or row.revoked or row.expires <= time.time() or row.status == CLOSED:
        return None
    return Caller(
        row.identity_id,
        row.person,
        row.username,
        frozenset(row.scope.split()),
        row.client_id,
        row.session_id,
    )


def token_facts(tx: Connection, token: str) -> dict[str, Any]:
    """RFC 7662's answer about a token."""
    who = caller(tx, token)
    if who is None:
        return {"active": False}
    row = tx.execute(select(tokens).where(tokens.c.hash == keys.digest(token))).one()
    return {
        "active": True,
        "sub": who.identity_id,
        "username": who.username,
        "client_id": who.client_id,
        "scope": row.scope,
        "token_type": "Bearer",
        "iat": int(row.created),
        "exp": int(row.expires),
    }


def purge_tokens(tx: Connection, before: float) -> None:
    """Forget the tokens that expired before a time."""
    tx.execute(tokens.delete().where(tokens.c.expires < before))
