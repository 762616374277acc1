"""What people have agreed to: kept for the clients that ask (globus_sdk's consents)."""

from __future__ import annotations

import time
import uuid
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Connection, Row, select, update

from mepd.gateway.authschema import consents


def give(
    tx: Connection, identity_id: str, client_id: str, scopes: Sequence[str], offline: bool
) -> None:
    now = time.time()
    for scope in scopes:
        match = (
            (consents.c.identity_id == identity_id)
            & (consents.c.client_id == client_id)
            & (consents.c.scope == scope)
        )
        values = {"updated": now, "offline": offline}
        if tx.execute(update(consents).where(match).values(**values)).rowcount == 0:
            key = {"identity_id": identity_id, "client_id": client_id, "scope": scope}
            tx.execute(consents.insert().values(**key, **values, created=now))


def _when(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat()


def _json(row: Row[Any]) -> dict[str, Any]:
    return {
        "id": row.id,
        "client": row.client_id,
        "scope": str(uuid.uuid5(uuid.NAMESPACE_URL, row.scope)),
        "scope_name": row.scope,
        "effective_identity": row.identity_id,
        "dependency_path": [row.id],
        "created": _when(row.created),
        "updated": _when(row.updated),
        "last_used": _when(row.updated),
        "status": "approved",
        "allows_refresh": row.offline,
        "auto_approved": False,
        "atomically_revocable": False,
    }


def listed(tx: Connection, identity_id: str, client_id: str | None) -> list[dict[str, Any]]:
    """Those of an identity; ``client_id``: only those given to this client."""
    query = select(consents).where(consents.c.identity_id == identity_id)
    if client_id is not None:
        query = query.where(consents.c.client_id == client_id)
    return [_json(row) for row in tx.execute(query.order_by(consents.c.id))]
