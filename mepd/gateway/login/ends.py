"""Ending what an identity has: its logins, its tokens, its accounts at the broker."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection, Row, select, update

from mepd.gateway import accounts, brokeraccounts
from mepd.gateway.login import sessions
from mepd.gateway.oauth import grants
from mepd.gateway.schema import identities, ueps


def _broker_accounts(tx: Connection, identity_id: str) -> None:
    brokeraccounts.drop(tx, brokeraccounts.SDK, identity_id)
    for uep_id in tx.execute(select(ueps.c.id).where(ueps.c.identity_id == identity_id)).scalars():
        brokeraccounts.drop(tx, brokeraccounts.UEP, uep_id)


def _log_out(tx: Connection, row: Row[Any]) -> None:
    sessions.end_all_of(tx, [row.id])
    grants.revoke_all_of(tx, row.id)
    brokeraccounts.drop(tx, brokeraccounts.SDK, row.id)


def end_logins(tx: Connection, identity_id: str) -> None:
    """After a new password: all that the old one may have opened ends. Tokens of clients
    and of the administrator go on."""
    sessions.end_all_of(tx, [identity_id])
    grants.revoke_grants_of(tx, identity_id)


def unlink(tx: Connection, key: str) -> None:
    """See accounts.unlink_identity. No login goes on by which it acts as one of those that it
    was linked with, or one of them as it. Raises ConfigError."""
    row = accounts.find_identity(tx, key)
    for mate in accounts.identity_set(tx, row.person):
        brokeraccounts.drop(tx, brokeraccounts.SDK, mate["id"])
    end_logins(tx, row.id)
    accounts.unlink_identity(tx, key)


def log_out(tx: Connection, key: str) -> None:
    """All sessions and tokens of the identity end. Raises ConfigError."""
    _log_out(tx, accounts.find_identity(tx, key))


def disable(tx: Connection, key: str) -> None:
    """The identity is refused everywhere; its clients cannot get tokens. Raises ConfigError."""
    row = accounts.find_identity(tx, key)
    tx.execute(
        update(identities).where(identities.c.id == row.id).values(status=accounts.CLOSED)
    )
    _log_out(tx, row)
    _broker_accounts(tx, row.id)


def enable(tx: Connection, key: str) -> None:
    """Raises ConfigError."""
    row = accounts.find_identity(tx, key)
    tx.execute(update(identities).where(identities.c.id == row.id).values(status=accounts.USED))
