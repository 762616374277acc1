"""Passwords: Argon2id (RFC 9106) by argon2-cffi, with the library's parameters."""

from __future__ import annotations

import asyncio
import functools
import time
import unicodedata

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError
from sqlalchemy import Connection, select

from mepd.errors import ConfigError
from mepd.gateway.authschema import passwords

MIN_LENGTH = 8
MAX_BYTES = 1024
AT_ONCE = 2
"""Verifications at the same time: each takes 64 MiB."""

_hasher = PasswordHasher()


def check_new(password: str) -> None:
    """Raises ConfigError for one that is too short (NIST SP 800-63B) or too long."""
    if len(password) < MIN_LENGTH:
        raise ConfigError(f"a password must have at least {MIN_LENGTH} characters")
    if len(password.encode("utf-8", "surrogatepass")) > MAX_BYTES:
        raise ConfigError(f"a password must have at most {MAX_BYTES} bytes")


def set_password(tx: Connection, identity_id: str, password_hash: str) -> None:
    tx.execute(passwords.delete().where(passwords.c.identity_id == identity_id))
    tx.execute(
        passwords.insert().values(
            identity_id=identity_id, hash=password_hash, changed=time.time()
        )
    )


def _normal(password: str) -> bytes:
    """The same for all ways to type the same characters (NIST SP 800-63B: NFKC)."""
    return unicodedata.normalize("NFKC", password).encode("utf-8", "surrogatepass")


def make_hash(password: str) -> str:
    """Raises ConfigError."""
    check_new(password)
    return _hasher.hash(_normal(password))


def stored_hash(tx: Connection, identity_id: str) -> str | None:
    query = select(passwords.c.hash).where(passwords.c.identity_id == identity_id)
    found: str | None = tx.execute(query).scalar()
    return found


@functools.cache
def _decoy() -> str:
    """What is verified where there is no password, so that both take the same time."""
    return _hasher.hash("no such account")


def verify(stored: str | None, password: str) -> bool:
    """Takes some 50 ms of processor time, whatever the answer."""
    try:
        good = _hasher.verify(stored or _decoy(), _normal(password))
    except (VerificationError, InvalidHashError):
        return False
    return good and stored is not None


def outdated(stored: str) -> bool:
    """Whether the library has better parameters now."""
    return _hasher.check_needs_rehash(stored)


class Verifier:
    """``verify`` in a thread, few at a time."""

    def __init__(self) -> None:
        self._turns = asyncio.Semaphore(AT_ONCE)

    async def verify(self, stored: str | None, password: str) -> bool:
        if len(password) > MAX_BYTES:
            return False
        async with self._turns:
            return await asyncio.to_thread(verify, stored, password)
