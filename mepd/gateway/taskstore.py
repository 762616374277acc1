"""Task groups, tasks and results in the store."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, Connection, Row, bindparam, func, or_, select, update

from mepd.gateway.schema import DONE, SENT, STORED, functions, task_groups, tasks

LEASE_S = 30.0
"""How long the process that stored a task or a result sees to it alone. If it dies, another
one does from then on."""
CHUNK = 500
"""Ids in one IN (...): databases bound the number of parameters."""
CLAIM_MAX = 5000
CLAIM_BYTES = 64 * 1024 * 1024
"""Tasks in one claim, and what they may hold together; more are left for the next."""


@dataclass(frozen=True)
class NewTask:
    """A task to store: ``payload`` is the packed arguments, ``headers`` those of the message."""

    id: str
    function_id: str
    payload: str
    headers: dict[str, Any]


@dataclass(frozen=True)
class Outgoing:
    """A stored task on its way to the broker; ``code`` and ``payload`` are packed.

    The tasks of one function share its code's text.
    """

    id: str
    uep_id: str
    code: str
    payload: str
    headers: dict[str, Any]

    @property
    def buffer(self) -> str:
        return self.code + self.payload

    @property
    def size(self) -> int:
        return len(self.code) + len(self.payload)


@dataclass(frozen=True)
class Finished:
    """A stored result on its way to its task group's queue; ``timestamp`` in seconds."""

    id: str
    group_id: str
    body: bytes
    timestamp: int


def chunks(ids: Iterable[str]) -> Iterable[list[str]]:
    rest = list(ids)
    return (rest[i:i + CHUNK] for i in range(0, len(rest), CHUNK))


def get_group(tx: Connection, ident: str) -> Row[Any] | None:
    return tx.execute(select(task_groups).where(task_groups.c.id == ident)).first()


def put_group(tx: Connection, ident: str, owner: str, queue: bool) -> None:
    """Make the group, or give it its queue. The caller has checked the owner."""
    row = get_group(tx, ident)
    if row is None:
        tx.execute(
            task_groups.insert().values(
                id=ident, owner=owner, has_queue=queue, created=time.time()
            )
        )
    elif queue and not row.has_queue:
        tx.execute(
            update(task_groups).where(task_groups.c.id == ident).values(has_queue=True)
        )


def add_tasks(
    tx: Connection, owner: str, group_id: str, endpoint_id: str, uep_id: str, new: list[NewTask]
) -> None:
    now = time.time()
    tx.execute(
        tasks.insert(),
        [
            {
                "id": task.id,
                "owner": owner,
                "group_id": group_id,
                "function_id": task.function_id,
                "endpoint_id": endpoint_id,
                "uep_id": uep_id,
                "state": STORED,
                "relayed": False,
                "lease": now + LEASE_S,
                "payload": task.payload,
                "headers": task.headers,
                "created": now,
            }
            for task in new
        ],
    )


def _claim(tx: Connection, match: ColumnElement[bool], order: ColumnElement[Any], now: float,
           all_of_them: bool, size: ColumnElement[Any]) -> list[str]:
    """Ids of the matching tasks that no other process sees to, and that are now the caller's.

    A lease that ends later than any that is given now is of a clock that was set back since.
    """
    query = select(tasks.c.id, size).where(match)
    if not all_of_them:
        query = query.where(or_(tasks.c.lease < now, tasks.c.lease > now + 2 * LEASE_S))
    query = query.order_by(order).limit(CLAIM_MAX).with_for_update(skip_locked=True)
    ids: list[str] = []
    held = 0
    for ident, bytes_ in tx.execute(query):
        held += bytes_ or 0
        if ids and held > CLAIM_BYTES:
            break
        ids.append(ident)
    for chunk in chunks(ids):
        tx.execute(update(tasks).where(tasks.c.id.in_(chunk)).values(lease=now + LEASE_S))
    return ids


def claim_unsent(tx: Connection, all_of_them: bool = False) -> list[Outgoing]:
    """Tasks that the broker has not confirmed, oldest first; with ``all_of_them`` also
    those that another process may be about to send."""
    size = func.length(tasks.c.payload)
    ids = _claim(tx, tasks.c.state == STORED, tasks.c.created, time.time(), all_of_them, size)
    found: list[Outgoing] = []
    codes: dict[str, str] = {}
    held = 0
    for chunk in chunks(ids):
        query = select(tasks).where(tasks.c.id.in_(chunk)).order_by(tasks.c.created)
        for row in tx.execute(query):
            if row.function_id not in codes:
                codes.update(function_codes(tx, [row.function_id]))
                held += len(codes[row.function_id])
            if found and held > CLAIM_BYTES:
                return found  # the rest is the next claim's
            code = codes[row.function_id]
            found.append(Outgoing(row.id, row.uep_id, code, row.payload, row.headers))
    return found


def function_codes(tx: Connection, ids: Iterable[str]) -> dict[str, str]:
    """The packed code of each of these functions."""
    found: dict[str, str] = {}
    for chunk in chunks(ids):
        query = select(functions.c.id, functions.c.code).where(functions.c.id.in_(chunk))
        found.update((row.id, row.code) for row in tx.execute(query))
    return found


def mark_sent(tx: Connection, ids: list[str]) -> None:
    for chunk in chunks(ids):
        match = tasks.c.id.in_(chunk) & (tasks.c.state == STORED)
        tx.execute(update(tasks).where(match).values(state=SENT))


def send_again(tx: Connection, uep_id: str) -> None:
    """The user endpoint's queue was emptied: what is open has yet to be sent."""
    match = (tasks.c.uep_id == uep_id) & (tasks.c.state == SENT)
    tx.execute(update(tasks).where(match).values(state=STORED, lease=0.0))


def finish(tx: Connection, results: list[tuple[str, str, bytes]]) -> list[Finished]:
    """Store results: (task id, id of the user endpoint that sent it, body).

    A result for a task that is unknown, done, or another user endpoint's is dropped.
    Returns what is new, for the relay.
    """
    now = time.time()
    bodies: dict[tuple[str, str], bytes] = {}
    for task_id, uep_id, body in results:
        bodies.setdefault((task_id, uep_id), body)
    fresh: list[Finished] = []
    for chunk in chunks({task_id for task_id, _ in bodies}):
        query = select(tasks.c.id, tasks.c.uep_id, tasks.c.group_id)
        query = query.where(tasks.c.id.in_(chunk), tasks.c.state != DONE)
        for row in tx.execute(query.order_by(tasks.c.id).with_for_update()):
            found = bodies.get((row.id, row.uep_id))
            if found is not None:
                fresh.append(Finished(row.id, row.group_id, found, int(now)))
    if fresh:
        tx.execute(
            update(tasks)
            .where(tasks.c.id == bindparam("task_id"))
            .values(
                state=DONE, finished=now, lease=now + LEASE_S, result=bindparam("new_result")
            ),
            [{"task_id": f.id, "new_result": f.body} for f in fresh],
        )
    return fresh


def claim_unrelayed(tx: Connection, all_of_them: bool = False) -> list[Finished]:
    """Results that no group's queue has been told, oldest first."""
    match = (tasks.c.state == DONE) & tasks.c.relayed.is_(False)
    size = func.length(tasks.c.result)
    ids = _claim(tx, match, tasks.c.finished, time.time(), all_of_them, size)
    found: list[Finished] = []
    for chunk in chunks(ids):
        query = select(tasks.c.id, tasks.c.group_id, tasks.c.result, tasks.c.finished)
        query = query.where(tasks.c.id.in_(chunk)).order_by(tasks.c.finished)
        found += [
            Finished(r.id, r.group_id, r.result, int(r.finished)) for r in tx.execute(query)
        ]
    return found


def queued_groups(tx: Connection, ids: Iterable[str]) -> set[str]:
    """Those of the groups that have a queue."""
    found: set[str] = set()
    for chunk in chunks(set(ids)):
        query = select(task_groups.c.id)
        match = (task_groups.c.id.in_(chunk)) & task_groups.c.has_queue
        found.update(row[0] for row in tx.execute(query.where(match)))
    return found


def mark_relayed(tx: Connection, ids: list[str]) -> None:
    for chunk in chunks(ids):
        tx.execute(update(tasks).where(tasks.c.id.in_(chunk)).values(relayed=True))


def get_tasks(tx: Connection, ids: Iterable[str], owner: str) -> dict[str, Row[Any]]:
    """Those of the tasks that are the owner's."""
    found: dict[str, Row[Any]] = {}
    for chunk in chunks(ids):
        query = select(
            tasks.c.id, tasks.c.state, tasks.c.result, tasks.c.finished, tasks.c.group_id
        )
        query = query.where(tasks.c.id.in_(chunk), tasks.c.owner == owner)
        found.update({row.id: row for row in tx.execute(query)})
    return found


def result_sizes(tx: Connection, ids: Iterable[str], owner: str) -> int:
    """Bytes of the results of those of the tasks that are the owner's, together."""
    total = 0
    for chunk in chunks(set(ids)):
        query = select(func.sum(func.length(tasks.c.result)))
        query = query.where(tasks.c.id.in_(chunk), tasks.c.owner == owner)
        total += int(tx.execute(query).scalar() or 0)
    return total


def group_tasks(tx: Connection, group_id: str) -> list[str]:
    query = select(tasks.c.id).where(tasks.c.group_id == group_id).order_by(tasks.c.created)
    return list(tx.execute(query).scalars())


def open_tasks(tx: Connection, uep_id: str) -> list[str]:
    """Ids of a user endpoint's tasks without result."""
    query = select(tasks.c.id).where(tasks.c.uep_id == uep_id, tasks.c.state != DONE)
    return list(tx.execute(query).scalars())


def ueps_with_open_tasks(tx: Connection) -> list[str]:
    query = select(tasks.c.uep_id).where(tasks.c.state.in_((STORED, SENT))).distinct()
    return list(tx.execute(query).scalars())


def has_result_since(tx: Connection, uep_id: str, since: float) -> bool:
    """Whether a user endpoint has brought a result after a time."""
    query = select(tasks.c.id).where(tasks.c.uep_id == uep_id, tasks.c.state == DONE)
    return tx.execute(query.where(tasks.c.finished > since).limit(1)).first() is not None


def counts(tx: Connection, endpoint_id: str) -> dict[int, int]:
    """Number of an endpoint's tasks by state."""
    query = select(tasks.c.state, func.count()).where(tasks.c.endpoint_id == endpoint_id)
    return {row[0]: row[1] for row in tx.execute(query.group_by(tasks.c.state))}


def expire(tx: Connection, before: float) -> int:
    """Forget a piece of the tasks that finished before a time. Returns how many."""
    query = select(tasks.c.id).where(tasks.c.state == DONE, tasks.c.finished < before)
    ids = list(tx.execute(query.limit(CHUNK)).scalars())
    return tx.execute(tasks.delete().where(tasks.c.id.in_(ids))).rowcount


def forget_groups(tx: Connection, before: float) -> int:
    """Forget a piece of the groups without tasks that were made before a time. Returns how
    many."""
    empty = ~select(tasks.c.id).where(tasks.c.group_id == task_groups.c.id).exists()
    query = select(task_groups.c.id).where(task_groups.c.created < before, empty)
    ids = list(tx.execute(query.limit(CHUNK)).scalars())
    return tx.execute(task_groups.delete().where(task_groups.c.id.in_(ids))).rowcount
