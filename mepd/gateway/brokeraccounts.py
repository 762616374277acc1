"""Accounts at the broker, and what each may do there: as little as it needs.

The broker asks the gateway through its HTTP auth backend. Every account belongs to one
subject: an endpoint ("mep"), a user endpoint ("uep") or a person's SDK ("sdk").
"""

from __future__ import annotations

import time
import uuid
from dataclasses import dataclass

from sqlalchemy import Connection, select

from mepd.gateway import keys, names
from mepd.gateway.schema import broker_accounts, task_groups

MEP = "mep"
UEP = "uep"
SDK = "sdk"
KEEP = {MEP: 3, UEP: 3, SDK: 256}
"""Accounts of one subject that stay valid: a start or a refresh may overtake another, and
a person may run many programs."""
LIFETIME_S = {MEP: 10 * 365 * 86400.0, UEP: 366 * 86400.0, SDK: 86400.0}


@dataclass(frozen=True)
class Account:
    """Who a broker account is."""

    kind: str
    subject: str


def issue(tx: Connection, kind: str, subject: str) -> tuple[str, str]:
    """A new account: user name and password. The oldest of the subject end."""
    now = time.time()
    table = broker_accounts
    old = select(table.c.username).where(table.c.kind == kind, table.c.subject == subject)
    newest_first = list(tx.execute(old.order_by(table.c.created.desc())).scalars())
    stale = newest_first[KEEP[kind] - 1:]
    if stale:
        tx.execute(table.delete().where(table.c.username.in_(stale)))
    tx.execute(table.delete().where(table.c.expires < now))
    username, password = f"{kind}-{uuid.uuid4().hex}", keys.new_secret()
    tx.execute(
        table.insert().values(
            username=username,
            password_hash=keys.digest(password),
            kind=kind,
            subject=subject,
            created=now,
            expires=now + LIFETIME_S[kind],
        )
    )
    return username, password


def drop(tx: Connection, kind: str, subject: str) -> None:
    """End all accounts of a subject."""
    table = broker_accounts
    tx.execute(table.delete().where(table.c.kind == kind, table.c.subject == subject))


def find(tx: Connection, username: str) -> Account | None:
    row = tx.execute(
        select(broker_accounts).where(broker_accounts.c.username == username)
    ).first()
    if row is None or row.expires < time.time():
        return None
    return Account(row.kind, row.subject)


def check(tx: Connection, username: str, password: str) -> bool:
    row = tx.execute(
        select(broker_accounts).where(broker_accounts.c.username == username)
    ).first()
    stored = row.password_hash if row is not None else keys.digest("")
    good = keys.matches(password, stored)
    return row is not None and good and row.expires >= time.time()


def owns_group(tx: Connection, identity_id: str, queue: str) -> bool:
    group = queue.removeprefix(names.GROUP_PREFIX)
    query = select(task_groups.c.owner).where(task_groups.c.id == group)
    return queue != group and tx.execute(query).scalar() == identity_id


def may_read_queue(tx: Connection, account: Account, queue: str) -> bool:
    if account.kind == MEP:
        return queue == names.command_queue(account.subject)
    if account.kind == UEP:
        return queue == names.task_queue(account.subject)
    return account.kind == SDK and owns_group(tx, account.subject, queue)


def may_write_exchange(account: Account, exchange: str) -> bool:
    """To an exchange at all; the key is checked with ``may_use_key``."""
    if exchange == names.HEARTBEATS:
        return account.kind in (MEP, UEP)
    return account.kind == UEP and exchange == names.RESULTS


def may_use_key(account: Account, exchange: str, key: str) -> bool:
    """A subject publishes under its own id only."""
    return may_write_exchange(account, exchange) and key == account.subject


def resource_allowed(
    tx: Connection, account: Account, resource: str, name: str, permission: str
) -> bool:
    """What RabbitMQ calls a permission: configure, write or read on a queue or exchange."""
    if resource == "queue" and permission == "read":
        return may_read_queue(tx, account, name)
    if resource == "exchange" and permission == "write":
        return may_write_exchange(account, name)
    return False
