"""OpenID Connect's id tokens: signed by RS256 with a key that the store keeps."""

from __future__ import annotations

import base64
import hashlib
import time
from dataclasses import dataclass
from typing import Any

from joserfc import jwt
from joserfc.jwk import RSAKey
from sqlalchemy import Connection, select, text

from mepd.gateway.authschema import signing_keys

KEY_BITS = 2048
LIFETIME_S = 3600
_LOCK = 0x6D65706B
"""Of pg_advisory_xact_lock(): "mepk"."""


@dataclass(frozen=True)
class Signer:
    """``key`` signs; ``public`` are the keys that clients are to know, the current first."""

    key: RSAKey
    public: tuple[dict[str, Any], ...]

    def sign(self, claims: dict[str, Any]) -> str:
        header = {"alg": "RS256", "typ": "JWT", "kid": self.key.thumbprint()}
        return jwt.encode(header, claims, self.key, algorithms=["RS256"])


def new_key(tx: Connection) -> None:
    """From now on a new key signs; the old ones are still published."""
    key = RSAKey.generate_key(KEY_BITS)
    pem = key.as_pem(private=True).decode("ascii")
    tx.execute(
        signing_keys.insert().values(id=key.thumbprint(), pem=pem, created=time.time())
    )


def load(tx: Connection) -> Signer:
    """The store's keys; made if there are none. Needs a transaction that writes."""
    if tx.dialect.name == "postgresql":  # two processes make one first key
        tx.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _LOCK})
    query = select(signing_keys.c.pem).order_by(signing_keys.c.created.desc())
    pems = list(tx.execute(query).scalars())
    if not pems:
        new_key(tx)
        pems = list(tx.execute(query).scalars())
    found = [RSAKey.import_key(pem) for pem in pems]
    public = tuple(
        {**key.as_dict(private=False), "kid": key.thumbprint(), "use": "sig", "alg": "RS256"}
        for key in found
    )
    return Signer(found[0], public)


def at_hash(access_token: str) -> str:
    """OpenID Connect Core section 3.1.3.6."""
    half = hashlib.sha256(access_token.encode("ascii")).digest()[:16]
    return base64.urlsafe_b64encode(half).rstrip(b"=").decode("ascii")


def claims(
    issuer: str,
    audience: str,
    identity: dict[str, Any],
    access_token: str,
    auth_time: float | None,
    nonce: str | None,
) -> dict[str, Any]:
    """What an id token says; ``auth_time``: when the person has last proved himself."""
    now = int(time.time())
    said: dict[str, Any] = {
        "iss": issuer,
        "aud": audience,
        "sub": identity["sub"],
        "iat": now,
        "exp": now + LIFETIME_S,
        "at_hash": at_hash(access_token),
        "preferred_username": identity["username"],
        "name": identity["name"],
        "email": identity["email"],
        "organization": identity["organization"],
        "identity_provider": identity["identity_provider"],
    }
    if auth_time is not None:
        said["auth_time"] = int(auth_time)
    if nonce is not None:
        said["nonce"] = nonce
    return said
