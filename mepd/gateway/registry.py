"""Functions, endpoints and user endpoints in the store."""

from __future__ import annotations

import json
import math
import time
import uuid
from collections.abc import Iterable, Sequence
from typing import Any

from sqlalchemy import ColumnElement, Connection, Row, Text, cast, func, or_, select, update

from mepd.gateway.brokeraccounts import UEP
from mepd.gateway.failures import ApiError
from mepd.gateway.schema import broker_accounts, endpoints, functions, tasks, ueps
from mepd.gateway.taskstore import CHUNK, chunks


OWNED_MAX = 16 * 1024 * 1024
"""Bytes of all endpoints of one owner, since one answer lists them."""
OWNED_MIN = 4096
"""What one counts for besides what may be large."""
LOCK_S = 600
"""How long a stopped endpoint stays stopped: long enough that a supervisor that starts it
again at once does not succeed."""
_AHEAD_S = 60
"""By which the clock of another process may be ahead of ours."""
_LARGE = ("meta", "admins", "allowed_functions")


def add_function(tx: Connection, owner: str, values: dict[str, Any]) -> str:
    ident = str(uuid.uuid4())
    tx.execute(
        functions.insert().values(
            id=ident, owner=owner, created=time.time(), deleted=False, **values
        )
    )
    return ident


def _may_use(caller: str) -> ColumnElement[bool]:
    mine_or_public = or_(functions.c.owner == caller, functions.c.public.is_(True))
    return functions.c.deleted.is_(False) & mine_or_public


def get_functions(tx: Connection, ids: Iterable[str], caller: str) -> dict[str, Row[Any]]:
    """Those of ``ids`` that the caller may use: his own and the public ones."""
    query = select(functions).where(functions.c.id.in_(list(ids)), _may_use(caller))
    return {row.id: row for row in tx.execute(query)}


def function_sizes(tx: Connection, ids: Iterable[str], caller: str) -> dict[str, int]:
    """Characters of the packed code of those of ``ids`` that the caller may use."""
    found: dict[str, int] = {}
    for chunk in chunks(ids):
        query = select(functions.c.id, func.length(functions.c.code)).where(
            functions.c.id.in_(chunk), _may_use(caller)
        )
        found.update((row[0], row[1]) for row in tx.execute(query))
    return found


def delete_function(tx: Connection, ident: str, owner: str) -> bool:
    match = (functions.c.id == ident) & (functions.c.owner == owner) & ~functions.c.deleted
    return tx.execute(update(functions).where(match).values(deleted=True)).rowcount == 1


def check_room(tx: Connection, ident: str | None, owner: str, values: dict[str, Any]) -> None:
    """Raises ApiError 413 if the owner's endpoints would become too large with this one."""
    size = OWNED_MIN + sum(len(json.dumps(values[name])) for name in _LARGE)
    held = OWNED_MIN * func.count()
    for name in _LARGE:
        held += func.coalesce(func.sum(func.length(cast(endpoints.c[name], Text))), 0)
    match = (endpoints.c.owner == owner) & endpoints.c.deleted.is_(False)
    others = match if ident is None else match & (endpoints.c.id != ident)
    size += int(tx.execute(select(held).where(others)).scalar_one())
    if size > OWNED_MAX:
        text = f"Your endpoints would have {size} bytes together; at most {OWNED_MAX} are kept"
        raise ApiError(413, "PAYLOAD_TOO_LARGE", text)


def add_endpoint(tx: Connection, owner: str, values: dict[str, Any]) -> str:
    ident = str(uuid.uuid4())
    tx.execute(
        endpoints.insert().values(
            id=ident,
            owner=owner,
            created=time.time(),
            online_until=0.0,
            heartbeat_period=30.0,
            deleted=False,
            **values,
        )
    )
    return ident


def update_endpoint(tx: Connection, ident: str, values: dict[str, Any]) -> None:
    tx.execute(update(endpoints).where(endpoints.c.id == ident).values(**values))


def get_endpoint(tx: Connection, ident: str) -> Row[Any] | None:
    query = select(endpoints).where(endpoints.c.id == ident, endpoints.c.deleted.is_(False))
    return tx.execute(query).first()


def check_lock(row: Row[Any]) -> None:
    """Raises ApiError 423 for an endpoint that was stopped from afar a while ago.

    A lock that lasts longer than any that is made is of a clock that was set back since.
    """
    left = math.ceil(row.locked_until - time.time())
    if 0 < left <= LOCK_S + _AHEAD_S:
        raise ApiError(423, "ENDPOINT_LOCKED", f"Endpoint {row.id} is locked", left)


def may_see(row: Row[Any], caller: str) -> bool:
    """Whether the endpoint is to be shown to this identity at all."""
    return bool(row.multi_user or row.public or may_manage(row, caller))


def may_submit(row: Row[Any], caller: str) -> bool:
    """A multi-user endpoint takes everybody: its identity mapping decides."""
    return bool(row.multi_user or row.owner == caller)


def may_manage(row: Row[Any], caller: str) -> bool:
    return bool(row.owner == caller or caller in row.admins)


def list_endpoints(tx: Connection, caller: str, everything: bool) -> Sequence[Row[Any]]:
    """The caller's own endpoints, or also those public."""
    mine = endpoints.c.owner == caller
    query = select(endpoints).where(
        endpoints.c.deleted.is_(False), or_(mine, endpoints.c.public) if everything else mine
    )
    return tx.execute(query.order_by(endpoints.c.created)).all()


def put_uep(
    tx: Connection, ident: str, endpoint_id: str, identity_id: str, config: Any, runtime: Any
) -> Row[Any] | None:
    """Remember a user endpoint and return its row, which is not forgotten before the end of
    the transaction; None if the id is another user's."""
    query = select(ueps).where(ueps.c.id == ident)
    row = tx.execute(query.with_for_update(read=True, key_share=True)).first()
    if row is None:
        tx.execute(
            ueps.insert().values(
                id=ident,
                endpoint_id=endpoint_id,
                identity_id=identity_id,
                config=config,
                runtime=runtime,
                created=time.time(),
                online_until=0.0,
                heartbeat_period=30.0,
            )
        )
    elif row.identity_id != identity_id or row.endpoint_id != endpoint_id:
        return None
    elif row.runtime != runtime:
        tx.execute(update(ueps).where(ueps.c.id == ident).values(runtime=runtime))
    return tx.execute(query).one()


def forget_ueps(tx: Connection, before: float) -> int:
    """Forget a piece of the user endpoints without tasks that were neither started nor there
    since a time, and their accounts at the broker. Returns how many."""
    mine = (broker_accounts.c.kind == UEP) & (broker_accounts.c.subject == ueps.c.id)
    started = select(broker_accounts.c.username).where(mine, broker_accounts.c.created >= before)
    idle = ~select(tasks.c.id).where(tasks.c.uep_id == ueps.c.id).exists()
    old = (ueps.c.created < before) & (ueps.c.online_until < before)
    query = select(ueps.c.id).where(old, idle, ~started.exists()).limit(CHUNK)
    ids = list(tx.execute(query.with_for_update(skip_locked=True)).scalars())
    # looked at again now that no submission can come between
    gone = list(tx.execute(select(ueps.c.id).where(ueps.c.id.in_(ids), idle)).scalars())
    match = (broker_accounts.c.kind == UEP) & broker_accounts.c.subject.in_(gone)
    tx.execute(broker_accounts.delete().where(match))
    return tx.execute(ueps.delete().where(ueps.c.id.in_(gone))).rowcount


def get_uep(tx: Connection, ident: str) -> Row[Any] | None:
    return tx.execute(select(ueps).where(ueps.c.id == ident)).first()


def store_presence(tx: Connection, reports: dict[str, tuple[float, float]]) -> None:
    """``reports``: id -> (online until, heartbeat period), of endpoints of either kind."""
    for ident, (until, period) in reports.items():
        values = {"online_until": until, "heartbeat_period": period}
        if not tx.execute(update(ueps).where(ueps.c.id == ident).values(**values)).rowcount:
            tx.execute(update(endpoints).where(endpoints.c.id == ident).values(**values))


def known_online(tx: Connection, now: float) -> list[tuple[str, float, float]]:
    """(id, online until, heartbeat period) of all that had not gone before ``now``."""
    found: list[tuple[str, float, float]] = []
    for table in (endpoints, ueps):
        query = select(table.c.id, table.c.online_until, table.c.heartbeat_period)
        found += [(r[0], r[1], r[2]) for r in tx.execute(query.where(table.c.online_until > now))]
    return found


def endpoint_ids(tx: Connection) -> set[str]:
    query = select(endpoints.c.id).where(endpoints.c.deleted.is_(False))
    return set(tx.execute(query).scalars())
