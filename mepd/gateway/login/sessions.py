"""A browser's session: one person, with the times at which identities of his logged in.

The cookie holds 256 random bits, the store their hash; each login gives the session a new
cookie, so that one planted before is worth nothing.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field

from sqlalchemy import Connection, select, update

from mepd.gateway import accounts, keys
from mepd.gateway.authschema import authentications, external_logins, grants, sessions
from mepd.gateway.schema import identities

KEPT_S = 367 * 86400.0
"""More than the longest time that a policy can ask for."""
PURGED_MAX = 5000


@dataclass(frozen=True)
class Authentication:
    """That an identity has proved itself: when, and whether by more than one factor."""

    identity_id: str
    time: float
    mfa: bool = False


@dataclass(frozen=True)
class Session:
    """``identity_id`` is whom tokens are made for."""

    id: str
    identity_id: str
    username: str
    person: str
    authentications: tuple[Authentication, ...]
    secret: str = field(repr=False)

    @property
    def auth_time(self) -> float:
        return max((a.time for a in self.authentications), default=0.0)


def authentications_of(tx: Connection, session_id: str) -> tuple[Authentication, ...]:
    query = select(authentications).where(authentications.c.session_id == session_id)
    return tuple(Authentication(r.identity_id, r.time, r.mfa) for r in tx.execute(query))


def last_authentications(tx: Connection, ids: Sequence[str]) -> tuple[Authentication, ...]:
    """Those of the identities in any session."""
    query = select(authentications).where(authentications.c.identity_id.in_(ids))
    return tuple(Authentication(r.identity_id, r.time, r.mfa) for r in tx.execute(query))


def effective(tx: Connection, identity_id: str) -> str:
    """Whom a person acts as who has logged in as ``identity_id``: the first of his linked
    identities, unless that is closed."""
    person = accounts.find_identity(tx, identity_id).person
    row = tx.execute(select(identities).where(identities.c.id == person)).first()
    return identity_id if row is None or row.status == accounts.CLOSED else str(row.id)


def find(tx: Connection, secret: str) -> Session | None:
    """The session of a cookie; None if it is unknown, over, or of a closed identity."""
    query = (
        select(sessions, identities.c.username, identities.c.person, identities.c.status)
        .join(identities, identities.c.id == sessions.c.identity_id)
        .where(sessions.c.hash == keys.digest(secret))
    )
    row = tx.execute(query).first()
    if row is None or row.expires <= time.time() or row.status == accounts.CLOSED:
        return None
    times = authentications_of(tx, row.id)
    return Session(row.id, row.identity_id, row.username, row.person, times, secret)


def log_in(
    tx: Connection, proof: Authentication, old: str | None, lifetime: float
) -> str:
    """The cookie of the session in which an identity has logged in.

    ``old`` is the cookie that the browser has shown; its session goes on if it is the same
    person's.
    """
    now, secret = time.time(), keys.new_secret()
    person = accounts.find_identity(tx, proof.identity_id).person
    session = find(tx, old) if old is not None else None
    if session is not None and session.person == person:
        ident = session.id
        values = {"hash": keys.digest(secret), "expires": now + lifetime}
        tx.execute(update(sessions).where(sessions.c.id == ident).values(**values))
    else:
        if session is not None:
            end(tx, session.id)
        ident = str(uuid.uuid4())
        tx.execute(
            sessions.insert().values(
                id=ident,
                hash=keys.digest(secret),
                identity_id=effective(tx, proof.identity_id),
                created=now,
                expires=now + lifetime,
            )
        )
    match = (authentications.c.session_id == ident) & (
        authentications.c.identity_id == proof.identity_id
    )
    tx.execute(authentications.delete().where(match))
    values = {"session_id": ident, "identity_id": proof.identity_id}
    tx.execute(authentications.insert().values(**values, time=proof.time, mfa=proof.mfa))
    return secret


def end(tx: Connection, session_id: str) -> None:
    """The browser is logged out. What was granted to clients goes on."""
    tx.execute(
        update(sessions)
        .where(sessions.c.id == session_id)
        .values(expires=0.0, hash=keys.digest(keys.new_secret()))
    )


def end_all_of(tx: Connection, identity_ids: Sequence[str]) -> None:
    """All sessions in which one of these identities takes part."""
    ids = list(identity_ids)
    query = select(authentications.c.session_id).where(authentications.c.identity_id.in_(ids))
    for session_id in set(tx.execute(query).scalars()):
        end(tx, session_id)
    for session_id in tx.execute(
        select(sessions.c.id).where(sessions.c.identity_id.in_(ids))
    ).scalars():
        end(tx, session_id)


def purge(tx: Connection, now: float) -> None:
    """Forget logins that never ended, and sessions that are over, once no grant refers to
    them and no policy may ask when somebody has logged in there."""
    tx.execute(external_logins.delete().where(external_logins.c.created < now - 3600))
    used = select(grants.c.session_id).where(grants.c.session_id == sessions.c.id).exists()
    match = (sessions.c.expires < now) & (sessions.c.created < now - KEPT_S) & ~used
    gone = list(tx.execute(select(sessions.c.id).where(match).limit(PURGED_MAX)).scalars())
    tx.execute(authentications.delete().where(authentications.c.session_id.in_(gone)))
    tx.execute(sessions.delete().where(sessions.c.id.in_(gone)))
