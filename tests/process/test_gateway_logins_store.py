"""Logins in the store when several processes work on it, on SQLite and PostgreSQL."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any, TypeVar

import pytest
from sqlalchemy import Connection, Table, func, select

from mepd.gateway import accounts, brokeraccounts
from mepd.gateway.authschema import authentications, refresh_tokens, signing_keys
from mepd.gateway.authschema import grants as grants_table
from mepd.gateway.authschema import sessions as sessions_table
from mepd.gateway.database import Database
from mepd.gateway.failures import StoreUnavailable
from mepd.gateway.login import attempts, ends, sessions
from mepd.gateway.login.desk import Desk
from mepd.gateway.oauth import consents, grants, idtoken, routes_token
from mepd.gateway.oauth.forms import Client
from mepd.gateway.oauth.grants import Issued, Lifetimes, Request
from mepd.gateway.rates import Rates
from mepd.gateway.schema import tokens
from tests.process.test_gateway_store import postgres, url  # noqa: F401  its stores

T = TypeVar("T")
AT_ONCE = 8
VERIFIER = "v" * 43
CHALLENGE = base64.urlsafe_b64encode(hashlib.sha256(VERIFIER.encode()).digest()).decode()[:43]
LIVES = Lifetimes(60, 60)


@pytest.fixture
def stores(url: str) -> Iterator[list[Database]]:  # noqa: F811
    """What several processes have of one store."""
    found = [Database(url) for _ in range(2)]
    found[0].create()
    yield found
    for db in found:
        db.close()


def at_once(stores: list[Database], work: Callable[[Connection], T]) -> list[T]:
    with ThreadPoolExecutor(AT_ONCE) as pool:
        jobs = [pool.submit(stores[n % len(stores)].write, work) for n in range(AT_ONCE)]
        return [job.result() for job in jobs]


def new_code(db: Database) -> str:
    return db.write(_another_code, "ann")


def _another_code(tx: Connection, name: object) -> str:
    """For a login of somebody of that name."""
    ident = accounts.add_identity(tx, f"{name}@example.org")
    cookie = sessions.log_in(tx, sessions.Authentication(ident, 5.0), None, 60)
    session = sessions.find(tx, cookie)
    assert session is not None
    request = Request("app", ident, session.id, "https://x.org/", "openid", CHALLENGE, None, True)
    return grants.add_code(tx, request)


def redeem(tx: Connection, code: str) -> Issued | None:
    return grants.redeem_code(tx, code, "app", "https://x.org/", VERIFIER, LIVES)


def alive(tx: Connection) -> tuple[Any, ...]:
    """Tokens, refresh tokens and grants that work."""
    return tuple(
        tx.execute(select(func.count()).select_from(table).where(match)).scalar()
        for table, match in (
            (tokens, tokens.c.revoked.is_(False)),
            (refresh_tokens, refresh_tokens.c.used.is_(False)),
            (grants_table, grants_table.c.revoked.is_(False)),
        )
    )


def test_g6_one_code_at_many_processes(stores: list[Database]) -> None:
    code = new_code(stores[0])
    answers = at_once(stores, lambda tx: redeem(tx, code))
    assert sum(answer is not None for answer in answers) == 1
    assert stores[0].read(alive) == (0, 0, 0), "its reuse has ended what it brought"


def test_g6_one_refresh_token_at_many_processes(stores: list[Database]) -> None:
    issued = stores[0].write(redeem, new_code(stores[0]))
    assert issued is not None and stores[0].read(alive) == (1, 1, 1)
    secret = issued.tokens[0]["refresh_token"]
    answers = at_once(stores, lambda tx: grants.refresh(tx, secret, "app", LIVES))
    assert sum(answer is not None for answer in answers) == 1
    assert stores[0].read(alive) == (0, 0, 0)


def _count(tx: Connection, table: Table) -> int:
    found: int = tx.execute(select(func.count()).select_from(table)).scalar_one()
    return found


def test_what_is_over_is_forgotten(stores: list[Database]) -> None:
    """Grants with their last token, sessions with their last grant and policy's question."""
    db = stores[0]
    assert db.write(redeem, new_code(db)) is not None
    now = time.time()
    late = now + sessions.KEPT_S + 100

    def purge(when: float) -> tuple[int, ...]:
        for forget in (accounts.purge_tokens, grants.purge, sessions.purge):
            db.write(forget, when)
        tables = (grants_table, sessions_table, authentications)
        return tuple(db.read(_count, table) for table in tables)

    assert purge(now) == (1, 1, 1)
    db.write(sessions.purge, late)
    assert db.read(_count, sessions_table) == 1, "its grant still has tokens"
    assert purge(now + 3600) == (0, 1, 1), "a policy may ask for the login of a year ago"
    assert purge(late) == (0, 0, 0)


def _login_of_bob_as_ann(tx: Connection) -> tuple[str, str, str, str]:
    """Session, access token, a code that waits, and broker account of somebody who is linked
    with Ann, and so acts as her."""
    ann = accounts.add_identity(tx, "ann@example.org")
    bob = accounts.add_identity(tx, "bob@example.org")
    accounts.link_identities(tx, ann, bob)
    cookie = sessions.log_in(tx, sessions.Authentication(bob, time.time()), None, 60)
    session = sessions.find(tx, cookie)
    assert session is not None and session.identity_id == ann
    request = Request(
        "app", ann, session.id, "https://x.org/", "openid", CHALLENGE, None, True
    )
    issued = redeem(tx, grants.add_code(tx, request))
    assert issued is not None
    waiting = grants.add_code(tx, request)
    account, _ = brokeraccounts.issue(tx, brokeraccounts.SDK, ann)
    return cookie, issued.tokens[0]["access_token"], waiting, account


@pytest.mark.parametrize("unlinked", ["ann@example.org", "bob@example.org"])
def test_who_is_unlinked_acts_as_no_other(stores: list[Database], unlinked: str) -> None:
    db = stores[0]
    cookie, token, code, account = db.write(_login_of_bob_as_ann)
    who = db.read(accounts.caller, token)
    assert who is not None and who.username == "ann@example.org"
    db.write(ends.unlink, unlinked)
    assert db.read(sessions.find, cookie) is None
    assert db.read(accounts.caller, token) is None
    assert db.write(redeem, code) is None
    assert db.read(brokeraccounts.find, account) is None
    assert db.read(alive) == (0, 0, 0)


def test_a_new_password_ends_codes_that_wait(stores: list[Database]) -> None:
    code = new_code(stores[0])
    ann = stores[0].read(accounts.find_identity, "ann@example.org").id
    stores[0].write(ends.end_logins, ann)
    assert stores[0].write(redeem, code) is None


class Failing:
    """A store that is away for one of the things that it is asked for."""

    def __init__(self, db: Database, which: int) -> None:
        self.db = db
        self.left = which

    async def _ask(self, ask: Any, *args: Any) -> Any:
        self.left -= 1
        if self.left == 0:
            raise StoreUnavailable("away")
        return await ask(*args)

    async def aread(self, *args: Any) -> Any:
        return await self._ask(self.db.aread, *args)

    async def awrite(self, *args: Any) -> Any:
        return await self._ask(self.db.awrite, *args)


async def _told_in_the_end(db: Database, which: int, form: dict[str, str]) -> tuple[Any, bool]:
    """The answer of the token route to a client that tries again; whether it had to."""
    store: Any = Failing(db, which)
    times = {"token_lifetime": 60.0, "refresh_lifetime": 60.0}
    service: Any = SimpleNamespace(
        db=store,
        desk=Desk(store, "https://x.org", None),
        rates=Rates(100, 100),
        settings=SimpleNamespace(public_url="https://x.org", **times),
    )
    grant, client = routes_token.GRANTS[form["grant_type"]], Client("app", None)
    try:
        return await grant(service, client, form), False
    except StoreUnavailable:
        return await grant(service, client, form), True


@pytest.mark.parametrize("kind", ["authorization_code", "refresh_token"])
def test_G7_tokens_are_had_in_the_end_though_the_store_goes(
    stores: list[Database], kind: str
) -> None:
    """Whatever it is asked for when it goes: what was spent would come a second time, and be
    taken for stolen."""
    again, which = True, 0
    while again:
        which += 1
        code = stores[0].write(_another_code, which)
        form = {"redirect_uri": "https://x.org/", "code_verifier": VERIFIER, "code": code}
        if kind == "refresh_token":
            issued = stores[0].write(redeem, code)
            assert issued is not None
            form = {"refresh_token": issued.tokens[0]["refresh_token"]}
        form["grant_type"] = kind
        answer, again = asyncio.run(_told_in_the_end(stores[0], which, form))
        assert answer["access_token"] and answer["refresh_token"] and answer["id_token"]
    assert which > 2


def test_attempts_at_once_do_not_pass_together(stores: list[Database]) -> None:
    who = (attempts.Subject("a", 3), attempts.Subject("h", 100))
    waits = at_once(stores, lambda tx: attempts.begin(tx, who, 1000.0))
    assert waits.count(0) == 3


def test_one_key_signs_and_one_consent_is_kept(stores: list[Database]) -> None:
    found = at_once(stores, idtoken.load)
    assert len({signer.key.thumbprint() for signer in found}) == 1
    assert stores[0].read(
        lambda tx: tx.execute(select(func.count()).select_from(signing_keys)).scalar()
    ) == 1
    at_once(stores, lambda tx: consents.give(tx, "ann", "app", ["openid"], True))
    assert len(stores[0].read(consents.listed, "ann", "app")) == 1
