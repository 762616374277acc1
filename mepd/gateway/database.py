"""The connection to the store: transactions, off the event loop, one kind of failure.

SQLite takes one writer at a time, so its writes queue in one thread instead of at its
lock; reads go on beside them (WAL). PostgreSQL has several of each.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Concatenate, ParamSpec, TypeVar

from sqlalchemy import Connection, create_engine, event, exc
from sqlalchemy.engine import URL, Engine, make_url
from sqlalchemy.engine.interfaces import DBAPIConnection

from mepd.errors import ConfigError
from mepd.gateway import authschema  # noqa: F401  its tables are in the same metadata
from mepd.gateway import migrate
from mepd.gateway.failures import StoreUnavailable

P = ParamSpec("P")
T = TypeVar("T")

READERS = 4
BUSY_TIMEOUT_MS = 5000
TRIES = 4
"""Of a transaction that another one got in the way of."""
_WHY_MAX = 300
_POSTGRESQL = {
    "connect_timeout": 5,
    "tcp_user_timeout": 10_000,  # ms; a host that has lost its power is not waited for
    "options": "-c lock_timeout=10000 -c statement_timeout=60000",
}


def _parse(url: str) -> URL:
    """PostgreSQL is spoken to by psycopg 3 unless the URL says else. Raises ConfigError, whose
    text has nothing of the URL, as no place in it is safe for what may be a password."""
    try:
        parsed = make_url(url)
    except (exc.ArgumentError, ValueError):
        raise ConfigError("database: is no URL of SQLAlchemy's") from None
    signs = url.count("@") - (parsed.username is not None)
    if signs > 0 and parsed.get_backend_name() != "sqlite":
        raise ConfigError("database: an @ of a user's name or password must be written %40")
    if parsed.drivername in ("postgres", "postgresql"):
        parsed = parsed.set(drivername="postgresql+psycopg")
    return parsed


def _shown(url: URL) -> str:
    """Which store it is, without what only its owner may know."""
    shown = URL.create(
        url.get_backend_name(), host=url.host, port=url.port, database=url.database
    )
    return shown.render_as_string()


def _why(error: exc.SQLAlchemyError, url: URL) -> str:
    """What the database says of an error that is not about rows, in one line."""
    cause: BaseException = getattr(error, "orig", None) or error
    name = type(cause).__name__
    if isinstance(error, exc.IntegrityError):  # it quotes the row
        return name
    primary = getattr(getattr(cause, "diag", None), "message_primary", None)  # without details
    text = " ".join(str(primary or (cause.args or [""])[0]).split())
    secrets = [url.password, *(v for k, v in url.query.items() if "password" in k)]
    if not text or any(secret and str(secret) in text for secret in secrets):
        return name
    return text[:_WHY_MAX]


def _engine(url: URL) -> Engine:
    if url.get_backend_name() != "postgresql":
        return create_engine(url)
    return create_engine(url, pool_pre_ping=True, pool_timeout=5, connect_args=_POSTGRESQL)


def _enter_wal(cursor: Any) -> None:
    """SQLite waits for no lock to change the mode, which the first process does."""
    deadline = time.monotonic() + BUSY_TIMEOUT_MS / 1000
    while True:
        try:
            cursor.execute("PRAGMA journal_mode=WAL")
            return
        except Exception:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.02)


def _tune_sqlite(engine: Engine) -> None:
    """WAL, durable commits, and transactions that say at their begin whether they write."""

    @event.listens_for(engine, "connect")
    def on_connect(connection: DBAPIConnection, _record: Any) -> None:
        connection.isolation_level = None  # the driver begins nothing by itself
        cursor = connection.cursor()
        cursor.execute(f"PRAGMA busy_timeout={BUSY_TIMEOUT_MS}")
        _enter_wal(cursor)
        for pragma in ("synchronous=FULL", "foreign_keys=ON"):
            cursor.execute(f"PRAGMA {pragma}")
        cursor.close()

    @event.listens_for(engine, "begin")
    def on_begin(connection: Connection) -> None:
        writing = connection.get_execution_options().get("writing", False)
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writing else "BEGIN")


_OUR_FAULT = (exc.DataError, exc.ProgrammingError, exc.NotSupportedError)
"""Of the database's errors; all others are about the store: locked, full, read-only, damaged,
gone."""


def _collided(error: exc.SQLAlchemyError) -> bool:
    """Whether a transaction of another process may be to blame: the same row was made, or
    each waited for the other (SQLSTATE class 40)."""
    state = getattr(getattr(error, "orig", None), "sqlstate", None) or ""
    return isinstance(error, exc.IntegrityError) or state.startswith("40")


class Database:
    """The store at ``url`` (SQLAlchemy's form). Raises ConfigError for an unusable URL.

    The functions given to ``read`` and ``write`` get a Connection inside a transaction,
    which commits when they return. ``shared`` says whether other gateway processes may use
    the store at the same time.
    """

    def __init__(self, url: str) -> None:
        parsed = _parse(url)
        self._named = _shown(parsed)
        try:
            self.engine = _engine(parsed)
        except (ImportError, exc.NoSuchModuleError) as e:
            raise ConfigError(f"database: {e}") from None
        except (exc.ArgumentError, ValueError, TypeError):
            raise ConfigError(f"database: {self._named} is not usable") from None
        sqlite = self.engine.dialect.name == "sqlite"
        self.shared = not sqlite
        if sqlite:
            _tune_sqlite(self.engine)
        self._writer = self.engine.execution_options(writing=True)
        self._reads = ThreadPoolExecutor(READERS, "db-read")
        self._turns = asyncio.Semaphore(READERS)
        self._writes = ThreadPoolExecutor(1 if sqlite else READERS, "db-write")

    def create(self) -> None:
        """Bring the tables to this version. Raises StoreUnavailable, ConfigError."""
        try:
            self.write(migrate.upgrade)
        except _OUR_FAULT as e:  # such as an option that the driver does not know, or no right
            raise ConfigError(f"database: {self._named}: {_why(e, self.engine.url)}") from e

    def _run(
        self,
        engine: Engine,
        function: Callable[Concatenate[Connection, P], T],
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> T:
        """A transaction, once more if another one got in its way."""
        tries = TRIES
        while True:
            tries -= 1
            try:
                with engine.begin() as connection:
                    return function(connection, *args, **kwargs)
            except _OUR_FAULT:
                raise
            except (exc.DBAPIError, exc.TimeoutError) as e:
                if tries and _collided(e):
                    continue
                why = _why(e, self.engine.url)
                raise StoreUnavailable(f"the store {self._named} is not available: {why}") from e

    def read(
        self, function: Callable[Concatenate[Connection, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """Raises StoreUnavailable."""
        return self._run(self.engine, function, *args, **kwargs)

    def write(
        self, function: Callable[Concatenate[Connection, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """Raises StoreUnavailable; nothing is written then."""
        return self._run(self._writer, function, *args, **kwargs)

    async def aread(
        self, function: Callable[Concatenate[Connection, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """``read`` in a thread. No more are read than the loop gets on with, as what is
        read may be large."""
        loop = asyncio.get_running_loop()
        async with self._turns:
            return await loop.run_in_executor(
                self._reads, lambda: self.read(function, *args, **kwargs)
            )

    async def awrite(
        self, function: Callable[Concatenate[Connection, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """``write`` in a thread; goes on to its end even if the caller is cancelled."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(
            self._writes, lambda: self.write(function, *args, **kwargs)
        )

    def close(self) -> None:
        self._writes.shutdown()
        self._reads.shutdown()
        with contextlib.suppress(exc.SQLAlchemyError):
            self.engine.dispose()
