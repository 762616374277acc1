"""Projects and policies in the store."""

from __future__ import annotations

import time
import uuid
from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection, Row, select, update

from mepd.gateway import accounts
from mepd.gateway.accounts import Caller
from mepd.gateway.authschema import policies, projects
from mepd.gateway.login import sessions
from mepd.gateway.policy.model import LinkedIdentity, Policy, Standing, domain_of
from mepd.gateway.schema import endpoints, identities


def linked_ids(tx: Connection, person: str) -> list[str]:
    """The person's open identities."""
    query = select(identities.c.id).where(
        identities.c.person == person, identities.c.status != accounts.CLOSED
    )
    return list(tx.execute(query).scalars())


def standing_of(tx: Connection, person: str, session_id: str | None) -> Standing:
    """Raises nothing: of an unknown person nothing is known."""
    query = select(identities.c.id, identities.c.username).where(
        identities.c.person == person, identities.c.status != accounts.CLOSED
    )
    linked = tuple(LinkedIdentity(r.id, domain_of(r.username)) for r in tx.execute(query))
    ever = sessions.last_authentications(tx, [i.id for i in linked])
    here = sessions.authentications_of(tx, session_id) if session_id is not None else ()
    return Standing(linked, here, ever)


def standing(tx: Connection, caller: Caller) -> Standing:
    return standing_of(tx, caller.person, caller.session_id)


def _list(value: Any) -> tuple[str, ...] | None:
    return None if value is None else tuple(value)


def policy_of(row: Row[Any]) -> Policy:
    return Policy(
        row.id,
        row.display_name,
        _list(row.include),
        _list(row.exclude),
        row.timeout,
        row.high_assurance,
        row.required_mfa,
    )


def get_policy(tx: Connection, ident: str) -> Row[Any] | None:
    return tx.execute(select(policies).where(policies.c.id == ident)).first()


def load_policy(tx: Connection, ident: str) -> Policy | None:
    row = get_policy(tx, ident)
    return policy_of(row) if row is not None else None


# --- projects -------------------------------------------------------------------------
def add_project(
    tx: Connection, display_name: str, contact_email: str, admin_ids: Sequence[str]
) -> Row[Any]:
    ident = str(uuid.uuid4())
    tx.execute(
        projects.insert().values(
            id=ident,
            display_name=display_name,
            contact_email=contact_email,
            admin_ids=list(admin_ids),
            created=time.time(),
        )
    )
    return tx.execute(select(projects).where(projects.c.id == ident)).one()


def administers(tx: Connection, project: Row[Any], person: str) -> bool:
    return not set(linked_ids(tx, person)).isdisjoint(project.admin_ids)


def list_projects(tx: Connection, person: str) -> list[Row[Any]]:
    """Those that an identity of the person administers."""
    mine = set(linked_ids(tx, person))
    rows = tx.execute(select(projects).order_by(projects.c.created))
    return [row for row in rows if not mine.isdisjoint(row.admin_ids)]


def get_project(tx: Connection, ident: str, person: str) -> Row[Any] | None:
    """None also if somebody else administers it."""
    row = tx.execute(select(projects).where(projects.c.id == ident)).first()
    return row if row is not None and administers(tx, row, person) else None


def change_project(tx: Connection, ident: str, values: dict[str, Any]) -> Row[Any]:
    if values:
        tx.execute(update(projects).where(projects.c.id == ident).values(**values))
    return tx.execute(select(projects).where(projects.c.id == ident)).one()


def delete_project(tx: Connection, ident: str) -> bool:
    """False if it has policies still."""
    if tx.execute(select(policies.c.id).where(policies.c.project_id == ident)).first():
        return False
    tx.execute(projects.delete().where(projects.c.id == ident))
    return True


# --- policies -------------------------------------------------------------------------
def add_policy(tx: Connection, values: dict[str, Any]) -> Row[Any]:
    ident = str(uuid.uuid4())
    tx.execute(policies.insert().values(id=ident, created=time.time(), **values))
    return tx.execute(select(policies).where(policies.c.id == ident)).one()


def list_policies(tx: Connection, person: str) -> list[Row[Any]]:
    """Those of the person's projects."""
    mine = [row.id for row in list_projects(tx, person)]
    query = select(policies).where(policies.c.project_id.in_(mine))
    return list(tx.execute(query.order_by(policies.c.created)))


def change_policy(tx: Connection, ident: str, values: dict[str, Any]) -> Row[Any]:
    if values:
        tx.execute(update(policies).where(policies.c.id == ident).values(**values))
    return tx.execute(select(policies).where(policies.c.id == ident)).one()


def delete_policy(tx: Connection, ident: str) -> bool:
    """False if an endpoint applies it: without it the endpoint would be open."""
    using = select(endpoints.c.id).where(
        endpoints.c.authentication_policy == ident, endpoints.c.deleted.is_(False)
    )
    if tx.execute(using).first():
        return False
    tx.execute(policies.delete().where(policies.c.id == ident))
    return True
