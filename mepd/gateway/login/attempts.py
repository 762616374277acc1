"""How often a login may fail: by account, and by the address that it comes from.

After ``limit`` failures each further attempt must wait, twice as long each time, at most
``WAIT_MAX_S``. A success forgets the account's failures, time forgets all. Attempts that
come too early are refused unread and count for nothing.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass

from sqlalchemy import Connection, select, update
from sqlalchemy.dialects import postgresql, sqlite

from mepd.gateway import keys
from mepd.gateway.authschema import login_attempts

WAIT_S = 15.0
WAIT_MAX_S = 900.0
FORGET_S = 3600.0


@dataclass(frozen=True)
class Subject:
    """Whose failures are counted; its key is a hash, as names are typed by anybody."""

    key: str
    limit: int


def account(username: str) -> Subject:
    return Subject(keys.digest("account:" + username.casefold()), 10)


def address(host: str) -> Subject:
    return Subject(keys.digest("address:" + host), 100)


def wait_after(failures: int, limit: int) -> float:
    """Seconds between the last failure and the next attempt."""
    if failures < limit:
        return 0.0
    return min(WAIT_S * 2.0 ** min(failures - limit, 30), WAIT_MAX_S)


def _failures(tx: Connection, subject: Subject, now: float) -> tuple[int, float]:
    """How many count, and when the last was. The row is there and locked from now on.

    A last time that has yet to come is of a clock that was set back: it was now.
    """
    insert = postgresql.insert if tx.dialect.name == "postgresql" else sqlite.insert
    new = insert(login_attempts).values(subject=subject.key, failures=0, last=now)
    tx.execute(new.on_conflict_do_nothing())
    match = login_attempts.c.subject == subject.key
    row = tx.execute(select(login_attempts).where(match).with_for_update()).one()
    if row.last > now:
        _store(tx, subject, row.failures, now)
        return row.failures, now
    return (0, 0.0) if now - row.last > FORGET_S else (row.failures, row.last)


def _store(tx: Connection, subject: Subject, failures: int, last: float) -> None:
    match = login_attempts.c.subject == subject.key
    tx.execute(update(login_attempts).where(match).values(failures=failures, last=last))


def must_wait(tx: Connection, subjects: tuple[Subject, ...], now: float | None = None) -> int:
    """The seconds to wait, as far as can be seen without writing."""
    now = time.time() if now is None else now
    wait = 0.0
    for subject in subjects:
        query = select(login_attempts).where(login_attempts.c.subject == subject.key)
        row = tx.execute(query).first()
        if row is not None and 0 <= now - row.last <= FORGET_S:
            wait = max(wait, row.last + wait_after(row.failures, subject.limit) - now)
    return math.ceil(wait)


def begin(tx: Connection, subjects: tuple[Subject, ...], now: float | None = None) -> int:
    """Take an attempt, which counts as failed until ``succeeded``.

    Returns 0, or the seconds to wait; then nothing is taken. Counting first keeps many
    attempts at once from passing together.
    """
    now = time.time() if now is None else now
    ordered = sorted(subjects, key=lambda subject: subject.key)  # no two wait for each other
    found = [(subject, *_failures(tx, subject, now)) for subject in ordered]
    wait = max(last + wait_after(n, subject.limit) - now for subject, n, last in found)
    if wait > 0:
        return math.ceil(wait)
    for subject, failures, _ in found:
        _store(tx, subject, failures + 1, now)
    return 0


def succeeded(tx: Connection, who: Subject, where: Subject, now: float | None = None) -> None:
    """The attempt was good: the account is clear, the address has this one back."""
    now = time.time() if now is None else now
    _store(tx, who, 0, now)
    failures, last = _failures(tx, where, now)
    _store(tx, where, max(failures - 1, 0), last)


def forget(tx: Connection, username: str) -> None:
    """The account may be tried again at once."""
    _store(tx, account(username), 0, time.time())


def purge(tx: Connection, now: float) -> None:
    tx.execute(login_attempts.delete().where(login_attempts.c.last < now - FORGET_S))
