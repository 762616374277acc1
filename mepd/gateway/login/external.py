"""From an external provider's claims to an identity of this service."""

from __future__ import annotations

import time
import uuid
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, select, update
from sqlalchemy.exc import IntegrityError

from mepd.gateway import accounts, keys
from mepd.gateway.authschema import external_logins, external_subjects
from mepd.gateway.login.config import OidcSettings
from mepd.gateway.login.provider import ProviderError, Started
from mepd.gateway.login.sessions import Authentication
from mepd.gateway.schema import identities

_FIELD_MAX = 256
_MFA = frozenset({"mfa", "otp", "hwk", "swk", "sc"})
"""What in "amr" (RFC 8176) says that there was a second factor."""


@dataclass(frozen=True)
class Profile:
    """The fields of an identity that come from claims."""

    username: str
    name: str | None
    email: str | None
    organization: str | None


@dataclass(frozen=True)
class Pending:
    """A login that was sent to the provider."""

    nonce_hash: str
    verifier: str
    next: str
    fresh: bool


def provider_id(issuer: str) -> str:
    """The identity provider's id, stable for its issuer."""
    return str(uuid.uuid5(uuid.NAMESPACE_URL, issuer))


def _text(claims: dict[str, Any], name: str) -> str | None:
    value = claims.get(name)
    if not isinstance(value, str) or not value.strip() or not value.isprintable():
        return None
    return value.strip()[:_FIELD_MAX]


def profile(claims: dict[str, Any], settings: OidcSettings) -> Profile:
    """Raises ProviderError for a user name that is missing or not of this provider."""
    value = claims.get(settings.claims["username"])
    username = value if isinstance(value, str) else ""
    local, at, domain = username.rpartition("@")
    if not at and len(settings.domains) == 1 and username:
        local, domain = username, next(iter(settings.domains))
    if not local or not domain or len(username) > _FIELD_MAX or not username.isprintable():
        raise ProviderError("the provider gives no user name of the form name@domain")
    if "@" in local or any(c.isspace() for c in username):
        raise ProviderError("the provider gives an impossible user name")
    if settings.domains and domain.lower() not in settings.domains:
        raise ProviderError("the provider gives a user name of a domain that is not its own")
    email = _text(claims, settings.claims["email"])
    if claims.get("email_verified") is not True and not settings.trust_email:
        email = None
    return Profile(
        f"{local}@{domain.lower()}",
        _text(claims, settings.claims["name"]),
        email,
        _text(claims, settings.claims["organization"]),
    )


def authentication(
    identity_id: str, claims: dict[str, Any], fresh: bool, now: float
) -> Authentication:
    """When the person has proved himself: as the provider says; if it does not, now for a
    login that had to be fresh, else at a time unknown (0). So is one that is no time (NaN)."""
    told = claims.get("auth_time")
    when = now if fresh else 0.0
    if isinstance(told, (int, float)) and not isinstance(told, bool):
        when = float(min(told, now)) if told >= 0 else 0.0
    methods = claims.get("amr")
    factors = {m for m in methods if isinstance(m, str)} if isinstance(methods, list) else set()
    return Authentication(identity_id, when, bool(factors & _MFA))


def _add(tx: Connection, subject: str, who: Profile, issuer: str) -> str:
    ident = str(uuid.uuid4())
    try:
        tx.execute(
            identities.insert().values(
                id=ident,
                person=ident,
                username=who.username,
                name=who.name,
                email=who.email,
                organization=who.organization,
                identity_provider=provider_id(issuer),
                identity_type="login",
                status=accounts.USED,
            )
        )
    except IntegrityError:
        raise ProviderError("another identity of this service has that user name") from None
    values = {"issuer": issuer, "subject": subject, "identity_id": ident}
    tx.execute(external_subjects.insert().values(**values))
    return ident


def identity_for(tx: Connection, subject: str, who: Profile, issuer: str) -> str:
    """The identity of the provider's subject, made at its first login and brought up to
    date at each. Raises ProviderError."""
    query = select(external_subjects.c.identity_id).where(
        external_subjects.c.issuer == issuer, external_subjects.c.subject == subject
    )
    ident = tx.execute(query).scalar()
    if ident is None:
        return _add(tx, subject, who, issuer)
    row = accounts.find_identity(tx, ident)
    if row.status == accounts.CLOSED:
        raise ProviderError("this identity is disabled")
    values = {
        "username": who.username,
        "name": who.name,
        "email": who.email,
        "organization": who.organization,
    }
    try:
        tx.execute(update(identities).where(identities.c.id == ident).values(**values))
    except IntegrityError:
        raise ProviderError("another identity of this service has that user name") from None
    return str(ident)


def remember(
    tx: Connection, started: Started, browser: str, next_: str, fresh: bool
) -> None:
    """``browser``: the secret of the browser's cookie, to which the login is bound."""
    tx.execute(
        external_logins.insert().values(
            hash=keys.digest(started.state),
            browser=keys.digest(browser),
            nonce_hash=keys.digest(started.nonce),
            verifier=started.verifier,
            next=next_,
            fresh=fresh,
            created=time.time(),
        )
    )


def take(tx: Connection, state: str, browser: str) -> Pending | None:
    """The login with this state, which works once, in the same browser, for an hour."""
    match = external_logins.c.hash == keys.digest(state)
    row = tx.execute(select(external_logins).where(match)).first()
    tx.execute(external_logins.delete().where(match))
    if row is None or not keys.matches(browser, row.browser):
        return None
    if row.created < time.time() - 3600:
        return None
    return Pending(row.nonce_hash, row.verifier, row.next, row.fresh)
