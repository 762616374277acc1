"""The store's functions, its steps from version to version; on SQLite and PostgreSQL."""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import Connection, event, inspect, select, text, update

from mepd.errors import ConfigError
from mepd.gateway import (
    accounts,
    brokeraccounts,
    database,
    home,
    keys,
    migrate,
    names,
    registry,
    schema,
    service,
    starts,
    submit,
    taskstore,
)
from mepd.gateway.brokeraccounts import MEP, SDK, UEP, Account
from mepd.gateway.config import Settings
from mepd.gateway.database import Database
from mepd.gateway.failures import ApiError, StoreUnavailable
from mepd.gateway.login import ends
from mepd.gateway.policy.enforce import PolicyCache
from mepd.gateway.taskstore import NewTask

from tests.conftest import require
from tests.postgres import Postgres, programs


@pytest.fixture(scope="module")
def postgres() -> Iterator[Postgres]:
    found = programs()
    require(found is not None, "postgresql, and root to start it")
    assert found is not None
    server = Postgres(found)
    try:
        server.start()
        yield server
    finally:
        server.remove()


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty store of each kind."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/store.db"
    server: Postgres = request.getfixturevalue("postgres")
    return server.create(f"t{uuid.uuid4().hex}")


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def db(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Database]:
    """One store of each kind; each test's transaction is taken back."""
    if request.param == "sqlite":
        made = Database(f"sqlite:///{tmp_path_factory.mktemp('store')}/store.db")
    else:
        made = Database(request.getfixturevalue("postgres").create("shared"))
    made.create()
    yield made
    made.close()


@pytest.fixture
def tx(db: Database) -> Iterator[Connection]:
    with db.engine.connect() as connection:
        yield connection
        connection.rollback()


def differences(connection: Connection) -> list[Any]:
    context = MigrationContext.configure(connection, opts={"compare_type": True})
    return list(compare_metadata(context, schema.metadata))


def test_the_steps_lead_to_the_tables(url: str) -> None:
    db = Database(url)
    db.create()
    db.create()
    assert db.read(differences) == []
    db.close()


def test_a_store_from_before_the_steps(url: str) -> None:
    """It was made by create_all; what is in it stays."""
    db = Database(url)
    db.write(first_tables)
    ident = db.write(accounts.add_identity, "a@example.org")
    db.create()
    assert db.read(differences) == []
    assert db.read(accounts.find_identity, ident).username == "a@example.org"
    db.close()


def first_tables(tx: Connection) -> None:
    """The tables of the first step, without its mark."""
    command.upgrade(migrate.steps(tx), "0001")
    tx.execute(text("DROP TABLE alembic_version"))


def test_a_newer_store_is_refused(url: str) -> None:
    db = Database(url)
    db.create()
    db.write(lambda tx: tx.execute(text("UPDATE alembic_version SET version_num = '9999'")))
    with pytest.raises(ConfigError, match="9999"):
        db.create()
    db.close()


MAKER = "import sys; from mepd.gateway.database import Database; Database(sys.argv[1]).create()"


def test_several_processes_start_at_once(url: str) -> None:
    argv = [sys.executable, "-c", MAKER, url]
    makers = [subprocess.Popen(argv, stderr=subprocess.PIPE, text=True) for _ in range(4)]
    assert [(m.communicate(timeout=60)[1], m.returncode) for m in makers] == [("", 0)] * 4
    db = Database(url)
    assert db.read(differences) == []
    db.close()


def test_a_step_may_take_longer_than_a_request(
    postgres: Postgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those who start meanwhile wait for it, too."""
    url = postgres.create("patient")
    first = Database(url)
    patience = "-c lock_timeout=1000 -c statement_timeout=1000"
    monkeypatch.setitem(database._POSTGRESQL, "options", patience)
    second = Database(url)
    waits = text("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted")
    with first.engine.connect() as step, ThreadPoolExecutor(1) as pool:
        step.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": migrate._LOCK})
        other = pool.submit(second.create)
        deadline = time.monotonic() + 20
        while not other.done() and not step.execute(waits).scalar():
            assert time.monotonic() < deadline
        time.sleep(1.5)  # longer than a request may wait
        step.rollback()
        other.result()
    assert first.read(differences) == []
    first.close()
    second.close()


def test_a_step_that_fails_leaves_nothing(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    db = Database(url)

    def fail(*_args: Any, **_kwargs: Any) -> None:
        raise RuntimeError("full")

    monkeypatch.setattr("alembic.op.create_index", fail)
    with pytest.raises(RuntimeError):
        db.create()
    monkeypatch.undo()
    assert db.read(lambda tx: inspect(tx).get_table_names()) == []
    db.create()
    db.close()


def test_G7_a_damaged_store_is_not_available(tmp_path: Path) -> None:
    """Not the fault of who asks; and it works again when the file is as it was."""
    path = tmp_path / "store.db"
    db = Database(f"sqlite:///{path}")
    db.create()
    db.write(accounts.add_identity, "ann@example.org")
    db.write(lambda tx: None)
    db.close()
    whole = path.read_bytes()
    path.write_bytes(whole[:4096] + b"\xff" * (len(whole) - 4096))
    again = Database(f"sqlite:///{path}")
    with pytest.raises(StoreUnavailable):
        again.read(accounts.list_identities)
    again.close()
    path.write_bytes(whole)
    again = Database(f"sqlite:///{path}")
    assert len(again.read(accounts.list_identities)) == 1
    again.close()


def test_G7_a_store_that_cannot_be_written(url: str) -> None:
    """PostgreSQL says so in a standby, SQLite on a medium that is read-only."""
    db = Database(url)
    db.create()
    read_only = {"sqlite": "PRAGMA query_only=ON", "postgresql": "SET TRANSACTION READ ONLY"}

    def add(tx: Connection) -> None:
        tx.exec_driver_sql(read_only[tx.dialect.name])
        accounts.add_identity(tx, "ann@example.org")

    with pytest.raises(StoreUnavailable):
        db.write(add)
    db.close()


def test_two_who_make_the_same_row(url: str) -> None:
    """Both succeed: the second looks again and finds it."""
    db = Database(url)
    db.create()
    with ThreadPoolExecutor(8) as pool:
        made = [pool.submit(db.write, taskstore.put_group, "g", "me", True) for _ in range(40)]
        for one in made:
            one.result(30)
    assert db.read(taskstore.queued_groups, ["g"]) == {"g"}
    db.close()


def test_linking_joins_all_identities_of_both(tx: Connection) -> None:
    ids = [accounts.add_identity(tx, f"{n}@example.org") for n in "abcd"]
    accounts.link_identities(tx, ids[0], ids[1])
    accounts.link_identities(tx, "c@example.org", ids[3])
    accounts.link_identities(tx, ids[3], ids[0])
    person = accounts.find_identity(tx, ids[2]).person
    assert {i["id"] for i in accounts.identity_set(tx, person)} == set(ids)


def test_a_disabled_identity_is_not_mapped(tx: Connection) -> None:
    """It is linked to one that goes on: the mapping would find its account."""
    first = accounts.add_identity(tx, "ann@example.org")
    second = accounts.add_identity(tx, "lee@example.org")
    accounts.link_identities(tx, first, second)
    uep = starts.Uep(str(uuid.uuid4()), str(uuid.uuid4()), first, {}, {})

    def named() -> list[str]:
        return [identity["id"] for identity in starts.person_of(tx, uep).identity_set]

    assert named() == [first, second]
    ends.disable(tx, second)
    assert named() == [first]


def test_names_are_unique(tx: Connection) -> None:
    accounts.add_identity(tx, "a@example.org")
    with pytest.raises(ConfigError, match="exists"):
        accounts.add_identity(tx, "a@example.org")


def test_tokens(tx: Connection) -> None:
    ident = accounts.add_identity(tx, "a@example.org")
    token_id, token = accounts.add_token(tx, ident, 60, "openid")
    caller = accounts.caller(tx, token)
    assert caller is not None and caller.identity_id == ident and caller.scopes == {"openid"}
    assert accounts.caller(tx, token_id) is None
    assert accounts.caller(tx, keys.digest(token)) is None
    assert accounts.caller(tx, accounts.add_token(tx, ident, 0, "openid")[1]) is None
    accounts.revoke_token(tx, token_id)
    assert accounts.caller(tx, token) is None
    with pytest.raises(ConfigError):
        accounts.revoke_token(tx, "no such")


def test_a_revoked_client_loses_its_tokens(tx: Connection) -> None:
    ident = accounts.add_identity(tx, "a@example.org")
    client, secret = accounts.add_client(tx, ident)
    assert accounts.check_client(tx, client, secret) == ident
    assert accounts.check_client(tx, client, secret + "x") is None
    assert accounts.check_client(tx, "unknown", "") is None
    _, token = accounts.add_token(tx, ident, 60, "openid", client)
    accounts.revoke_client(tx, client)
    assert accounts.check_client(tx, client, secret) is None
    assert accounts.caller(tx, token) is None


def test_secrets_have_256_bits() -> None:
    made = {keys.new_secret() for _ in range(100)}
    assert len(made) == 100 and all(len(s) == 43 and s.isalnum() for s in made)


def test_a_user_endpoint_of_another_is_refused(tx: Connection) -> None:
    assert registry.put_uep(tx, "u", "e", "harper", {}, {}) is not None
    assert registry.put_uep(tx, "u", "e", "harper", {}, {"v": 2}) is not None
    assert registry.put_uep(tx, "u", "e", "jessie", {}, {}) is None
    assert registry.put_uep(tx, "u", "other", "harper", {}, {}) is None
    row = registry.get_uep(tx, "u")
    assert row is not None and row.runtime == {"v": 2}


def endpoint(**more: Any) -> dict[str, Any]:
    return {
        **dict.fromkeys(("display_name", "allowed_functions", "authentication_policy", "meta")),
        **dict.fromkeys(("multi_user", "public", "high_assurance"), False),
        **{"name": "e", "admins": [], **more},
    }


@pytest.mark.parametrize("name", ["meta", "allowed_functions", "admins"])
def test_an_owners_endpoints_fit_into_one_answer(tx: Connection, name: str) -> None:
    """Eight of these do; what is no ASCII is written in six characters."""
    size = (registry.OWNED_MAX // 8 - registry.OWNED_MIN - 1024) // 6
    value: Any = {"e": "\u00e9" * size}
    large = endpoint(**{name: value if name == "meta" else [value["e"]]})
    for _ in range(8):
        registry.check_room(tx, None, "ann", large)
        last = registry.add_endpoint(tx, "ann", large)
    with pytest.raises(ApiError) as refused:
        registry.check_room(tx, None, "ann", large)
    assert refused.value.status == 413
    registry.check_room(tx, last, "ann", large)
    registry.check_room(tx, None, "lee", large)
    registry.update_endpoint(tx, last, {"deleted": True})
    registry.check_room(tx, None, "ann", large)


def test_small_endpoints_of_an_owner_are_bounded_too(
    tx: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(registry, "OWNED_MAX", 10 * registry.OWNED_MIN)
    for _ in range(9):
        registry.check_room(tx, None, "ann", endpoint())
        registry.add_endpoint(tx, "ann", endpoint())
    with pytest.raises(ApiError):
        registry.check_room(tx, None, "ann", endpoint())


def add_tasks(tx: Connection, *ids: str, uep: str = "u") -> None:
    if not registry.get_functions(tx, ["f"], "me"):
        values = {"name": "f", "code": "4\ncode", "public": False, "created": 0.0}
        tx.execute(schema.functions.insert().values(id="f", owner="me", deleted=False, **values))
    new = [NewTask(i, "f", "payload", {"task_uuid": i}) for i in ids]
    taskstore.add_tasks(tx, "me", "g", "e", uep, new)


def test_the_way_of_a_task(tx: Connection) -> None:
    add_tasks(tx, "1", "2", "3")
    assert [t.buffer for t in taskstore.claim_unsent(tx, True)] == ["4\ncodepayload"] * 3
    taskstore.mark_sent(tx, ["1", "2"])
    assert [t.id for t in taskstore.claim_unsent(tx, True)] == ["3"]
    fresh = taskstore.finish(tx, [("1", "u", b"r1"), ("3", "u", b"r3"), ("3", "u", b"again")])
    assert {(f.id, f.body) for f in fresh} == {("1", b"r1"), ("3", b"r3")}
    assert taskstore.finish(tx, [("1", "u", b"other")]) == []
    assert taskstore.open_tasks(tx, "u") == ["2"]
    taskstore.mark_sent(tx, ["3"])  # the confirm came after the result
    assert taskstore.open_tasks(tx, "u") == ["2"]
    assert {f.id for f in taskstore.claim_unrelayed(tx, True)} == {"1", "3"}
    taskstore.mark_relayed(tx, ["1"])
    assert [f.id for f in taskstore.claim_unrelayed(tx, True)] == ["3"]


def test_a_result_from_the_wrong_user_endpoint(tx: Connection) -> None:
    add_tasks(tx, "1")
    assert taskstore.finish(tx, [("1", "other", b"forged"), ("unknown", "u", b"x")]) == []
    assert taskstore.open_tasks(tx, "u") == ["1"]


def test_a_forged_result_does_not_hide_the_true_one(tx: Connection) -> None:
    add_tasks(tx, "1")
    fresh = taskstore.finish(tx, [("1", "other", b"forged"), ("1", "u", b"true")])
    assert [f.body for f in fresh] == [b"true"]


def test_many_ids(tx: Connection) -> None:
    ids = [f"{n:05}" for n in range(1200)]
    add_tasks(tx, *ids)
    taskstore.mark_sent(tx, ids)
    assert len(taskstore.finish(tx, [(i, "u", b"r") for i in ids])) == 1200
    assert len(taskstore.get_tasks(tx, ids, "me")) == 1200
    assert taskstore.get_tasks(tx, ids, "you") == {}


def test_finished_tasks_expire(tx: Connection) -> None:
    add_tasks(tx, "1", "2")
    taskstore.finish(tx, [("1", "u", b"r")])
    taskstore.expire(tx, time.time() + 1)
    assert taskstore.get_tasks(tx, ["1", "2"], "me").keys() == {"2"}


def new_uep(tx: Connection, name: str, created: float = 0.0, online_until: float = 0.0) -> str:
    ident = str(uuid.uuid5(uuid.NAMESPACE_OID, name))
    registry.put_uep(tx, ident, "e", "me", {"name": name}, {})
    times = {"created": created, "online_until": online_until}
    tx.execute(update(schema.ueps).where(schema.ueps.c.id == ident).values(**times))
    return ident


def test_user_endpoints_that_nobody_uses_are_forgotten(tx: Connection) -> None:
    """There is one for each configuration that anybody has ever submitted with."""
    account, _ = brokeraccounts.issue(tx, UEP, new_uep(tx, "over"))
    tx.execute(update(schema.broker_accounts).values(created=5.0))
    kept = [new_uep(tx, "young", created=20.0), new_uep(tx, "online", online_until=20.0)]
    kept += [new_uep(tx, "started"), new_uep(tx, "busy"), new_uep(tx, "done")]
    brokeraccounts.issue(tx, UEP, kept[2])
    add_tasks(tx, "1", uep=kept[3])
    add_tasks(tx, "2", uep=kept[4])
    taskstore.finish(tx, [("2", kept[4], b"r")])
    assert registry.forget_ueps(tx, 10.0) == 1
    assert registry.forget_ueps(tx, 10.0) == 0
    assert brokeraccounts.find(tx, account) is None
    assert set(tx.execute(select(schema.ueps.c.id)).scalars()) == set(kept)
    taskstore.expire(tx, time.time() + 1)
    assert registry.forget_ueps(tx, 10.0) == 1


def test_a_user_endpoint_that_was_just_forgotten_gets_its_tasks(tx: Connection) -> None:
    """A submission has looked it up before; else nobody would look after its tasks."""
    add_tasks(tx, "1")
    ident = new_uep(tx, "over")
    row = registry.get_uep(tx, ident)
    assert row is not None and registry.forget_ueps(tx, 10.0) == 1
    new = [NewTask("2", "f", "payload", {})]
    caller = accounts.Caller("me", "me", "me@example.org", frozenset(), None)
    submit._store(tx, caller, "g", False, starts.uep_of(row), new)
    again = registry.get_uep(tx, ident)
    assert again is not None and again.config == {"name": "over"}
    assert registry.forget_ueps(tx, time.time() + 1) == 0


def test_none_is_forgotten_while_tasks_come_for_it(postgres: Postgres) -> None:
    """SQLite has one writer at a time."""
    db = Database(postgres.create("forgotten"))
    db.create()
    ident = db.write(new_uep, "over")
    with db.engine.begin() as submission:
        registry.put_uep(submission, ident, "e", "me", {"name": "over"}, {})
        assert db.write(registry.forget_ueps, 10.0) == 0
        add_tasks(submission, "1", uep=ident)
    assert db.write(registry.forget_ueps, 10.0) == 0
    assert db.read(registry.get_uep, ident) is not None
    db.close()


def test_groups_without_tasks_are_forgotten(tx: Connection) -> None:
    add_tasks(tx, "1")
    for group in ("g", "empty"):
        taskstore.put_group(tx, group, "me", True)
    assert taskstore.forget_groups(tx, time.time() - 60) == 0
    assert taskstore.forget_groups(tx, time.time() + 60) == 1
    assert taskstore.get_group(tx, "g") is not None


def test_what_is_over_is_forgotten_in_pieces(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All of it, each in a transaction of its own: else all writers would wait for long."""
    db = Database(url)
    db.create()
    monkeypatch.setattr(taskstore, "CHUNK", 2)
    ids = [str(n) for n in range(5)]
    db.write(add_tasks, *ids, "open")
    db.write(taskstore.finish, [(i, "u", b"r") for i in ids])
    pieces: list[int] = []

    def expire(tx: Connection, before: float) -> int:
        pieces.append(taskstore_expire(tx, before))
        return pieces[-1]

    taskstore_expire = taskstore.expire
    monkeypatch.setattr(taskstore, "expire", expire)
    broker = names.PublicBroker("127.0.0.1", 1)
    settings = Settings("127.0.0.1", 1, url, "127.0.0.1", 1, "u", "p", broker)
    later = time.time() + settings.keep_results + 60
    asyncio.run(service.Service(settings, db).forget(later))
    assert pieces == [2, 2, 1, 0]
    assert db.read(taskstore.get_tasks, [*ids, "open"], "me").keys() == {"open"}
    db.close()


def test_broker_accounts_end_in_turn(tx: Connection) -> None:
    """The newest three of a user endpoint are valid: starts may overtake each other."""
    table = schema.broker_accounts
    made = []
    for number in range(5):
        made.append(brokeraccounts.issue(tx, UEP, "u"))
        match = table.c.username == made[-1][0]
        tx.execute(update(table).where(match).values(created=float(number)))
    other = brokeraccounts.issue(tx, UEP, "other")
    valid = [brokeraccounts.check(tx, *account) for account in made]
    assert valid == [False, False, True, True, True]
    assert brokeraccounts.check(tx, *other)
    assert not brokeraccounts.check(tx, other[0], made[4][1])
    brokeraccounts.drop(tx, UEP, "u")
    assert not brokeraccounts.check(tx, *made[4])


def test_expired_broker_accounts_are_unknown(tx: Connection) -> None:
    username, password = brokeraccounts.issue(tx, SDK, "me")
    tx.execute(update(schema.broker_accounts).values(expires=time.time() - 1))
    assert not brokeraccounts.check(tx, username, password)
    assert brokeraccounts.find(tx, username) is None
    brokeraccounts.issue(tx, SDK, "me")
    assert len(tx.execute(select(schema.broker_accounts)).all()) == 1


RIGHTS = [
    (MEP, "queue", "mepd.commands.s", "read"),
    (MEP, "exchange", "mepd.heartbeats", "write"),
    (UEP, "queue", "mepd.tasks.s", "read"),
    (UEP, "exchange", "mepd.heartbeats", "write"),
    (UEP, "exchange", "mepd.results", "write"),
    (SDK, "queue", "mepd.group.mine", "read"),
]


def test_F4_rights_are_exactly_these(tx: Connection) -> None:
    """Over all kinds, resources, names and permissions, nothing else is allowed."""
    taskstore.put_group(tx, "mine", "s", True)
    taskstore.put_group(tx, "theirs", "t", True)
    queues = [names.command_queue("s"), names.command_queue("t"), names.task_queue("s")]
    queues += [names.task_queue("t"), "mepd.group.mine", "mepd.group.theirs", "mepd.group."]
    everything = [*queues, "mine", names.RESULTS, names.HEARTBEATS, "", "amq.default", "amq.topic"]
    allowed = [
        (kind, resource, name, permission)
        for kind in (MEP, UEP, SDK, "none")
        for resource in ("queue", "exchange", "topic", "")
        for name in everything
        for permission in ("configure", "write", "read", "")
        if brokeraccounts.resource_allowed(tx, Account(kind, "s"), resource, name, permission)
    ]
    assert sorted(allowed) == sorted(RIGHTS)


def test_F4_a_subject_publishes_as_itself() -> None:
    uep = Account(UEP, "s")
    assert brokeraccounts.may_use_key(uep, "mepd.results", "s")
    for key in ("t", "s.t", "#", "*", "s ", ""):
        assert not brokeraccounts.may_use_key(uep, "mepd.results", key)
    assert not brokeraccounts.may_use_key(Account(SDK, "s"), "mepd.results", "s")
    assert not brokeraccounts.may_use_key(Account(MEP, "s"), "mepd.results", "s")


def plans(db: Database, ask: Any, *args: Any) -> list[str]:
    """How SQLite does each step of what ``ask`` asks of the store."""
    asked: list[tuple[str, Any]] = []

    def note(_c: Any, _cursor: Any, statement: str, parameters: Any, *_: Any) -> None:
        asked.append((statement, parameters))

    event.listen(db.engine, "before_cursor_execute", note)
    db.read(ask, *args)
    event.remove(db.engine, "before_cursor_execute", note)
    with db.engine.connect() as connection:
        return [
            row.detail
            for statement, parameters in asked
            if statement.startswith("SELECT")
            for row in connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", parameters)
        ]


ANN = accounts.Caller("ann", "ann", "ann@example.org", frozenset(), None)


@pytest.mark.parametrize(
    ("ask", "args"),
    [
        (taskstore.counts, ("e",)),
        (home.view, (ANN, PolicyCache())),
        (taskstore.get_tasks, (["t"], "ann")),
        (taskstore.result_sizes, (["t"], "ann")),
        (taskstore.group_tasks, ("g",)),
        (taskstore.open_tasks, ("u",)),
        (taskstore.has_result_since, ("u", 0.0)),
    ],
)
def test_G5_what_one_asks_looks_through_no_others_tasks(
    ask: Any, args: Any, tmp_path: Path
) -> None:
    """Else each request takes the longer the more tasks the store has, and all wait."""
    db = Database(f"sqlite:///{tmp_path}/store.db")
    db.create()
    steps = [step for step in plans(db, ask, *args) if " tasks" in step]
    assert steps and all(step.startswith("SEARCH tasks USING") for step in steps), steps
    db.close()


def test_what_another_process_sees_to_is_left_to_it(tx: Connection) -> None:
    add_tasks(tx, "1", "2", "3")
    assert taskstore.claim_unsent(tx) == []
    lapsed = update(schema.tasks).where(schema.tasks.c.id.in_(["1", "2"])).values(lease=1.0)
    tx.execute(lapsed)
    assert {t.id for t in taskstore.claim_unsent(tx)} == {"1", "2"}
    assert taskstore.claim_unsent(tx) == []  # they are ours now
    taskstore.finish(tx, [("3", "u", b"result")])
    assert taskstore.claim_unrelayed(tx) == []
    tx.execute(update(schema.tasks).values(lease=1.0))
    assert [f.id for f in taskstore.claim_unrelayed(tx)] == ["3"]


def test_what_an_emptied_queue_held_is_sent_again(tx: Connection) -> None:
    add_tasks(tx, "1", "2", "3")
    taskstore.mark_sent(tx, ["1", "2", "3"])
    taskstore.finish(tx, [("1", "u", b"lost")])
    assert taskstore.claim_unsent(tx) == []
    taskstore.send_again(tx, "u")
    assert {t.id for t in taskstore.claim_unsent(tx)} == {"2", "3"}


def test_a_lease_of_a_clock_that_was_set_back_holds_nothing(tx: Connection) -> None:
    add_tasks(tx, "1", "2", "3")
    ahead = time.time() + 86400
    tx.execute(update(schema.tasks).where(schema.tasks.c.id == "1").values(lease=ahead))
    assert [t.id for t in taskstore.claim_unsent(tx)] == ["1"]
    assert taskstore.claim_unsent(tx) == []


def test_a_lock_of_a_clock_that_was_set_back_holds_nothing(tx: Connection) -> None:
    ident = registry.add_endpoint(tx, "me", endpoint())
    for ahead, locked in ((-1, False), (500, True), (86400, False)):
        registry.update_endpoint(tx, ident, {"locked_until": time.time() + ahead})
        row = registry.get_endpoint(tx, ident)
        assert row is not None
        with pytest.raises(ApiError, match="locked") if locked else contextlib.nullcontext():
            registry.check_lock(row)


def test_one_claim_is_bounded_in_bytes(tx: Connection, monkeypatch: pytest.MonkeyPatch) -> None:
    """The rest is the next one's; a single large task is claimed all the same."""
    add_tasks(tx, "1", "2", "3")
    monkeypatch.setattr(taskstore, "CLAIM_BYTES", 7)
    tx.execute(update(schema.tasks).values(lease=1.0))
    assert len(taskstore.claim_unsent(tx)) == 1, "the payload has 7 bytes"
    assert len(taskstore.claim_unsent(tx)) == 1
    monkeypatch.setattr(taskstore, "CLAIM_BYTES", 1)
    assert len(taskstore.claim_unsent(tx)) == 1
    assert taskstore.claim_unsent(tx) == []
    taskstore.finish(tx, [(ident, "u", b"result") for ident in "123"])
    tx.execute(update(schema.tasks).values(lease=1.0))
    assert [len(taskstore.claim_unrelayed(tx)) for _ in range(4)] == [1, 1, 1, 0]
