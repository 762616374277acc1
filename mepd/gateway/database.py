"""The connection to the store: transactions, off the event loop, one kind of failure.

SQLite takes one writer at a time, so its writes queue in one thread instead of at its
lock; reads go on beside them (WAL).
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Concatenate, ParamSpec, TypeVar

from sqlalchemy import Connection, create_engine, event, exc
from sqlalchemy.engine import Engine, make_url
from sqlalchemy.engine.interfaces import DBAPIConnection

from mepd.errors import ConfigError
from mepd.gateway import authschema  # noqa: F401  its tables are in the same metadata
from mepd.gateway import schema
from mepd.gateway.failures import StoreUnavailable

P = ParamSpec("P")
T = TypeVar("T")

READERS = 4
BUSY_TIMEOUT_MS = 5000


def _tune_sqlite(engine: Engine) -> None:
    """WAL, durable commits, and transactions that say at their begin whether they write."""

    @event.listens_for(engine, "connect")
    def on_connect(connection: DBAPIConnection, _record: Any) -> None:
        connection.isolation_level = None  # the driver begins nothing by itself
        cursor = connection.cursor()
        for pragma in (
            f"busy_timeout={BUSY_TIMEOUT_MS}",
            "journal_mode=WAL",
            "synchronous=FULL",
            "foreign_keys=ON",
        ):
            cursor.execute(f"PRAGMA {pragma}")
        cursor.close()

    @event.listens_for(engine, "begin")
    def on_begin(connection: Connection) -> None:
        writing = connection.get_execution_options().get("writing", False)
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writing else "BEGIN")


class Database:
    """The store at ``url`` (SQLAlchemy's form). Raises ConfigError for an unusable URL.

    The functions given to ``read`` and ``write`` get a Connection inside a transaction,
    which commits when they return.
    """

    def __init__(self, url: str) -> None:
        try:
            parsed = make_url(url)
            self.engine = create_engine(
                parsed, pool_pre_ping=parsed.get_backend_name() != "sqlite"
            )
        except (exc.ArgumentError, ImportError) as e:
            raise ConfigError(f"database: {e}") from None
        sqlite = self.engine.dialect.name == "sqlite"
        if sqlite:
            _tune_sqlite(self.engine)
        self._writer = self.engine.execution_options(writing=True)
        self._reads = ThreadPoolExecutor(READERS, "db-read")
        self._writes = ThreadPoolExecutor(1 if sqlite else READERS, "db-write")

    def create(self) -> None:
        """Make the tables that are missing. Raises StoreUnavailable."""
        self.write(schema.metadata.create_all)

    def _run(
        self,
        engine: Engine,
        function: Callable[Concatenate[Connection, P], T],
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> T:
        try:
            with engine.begin() as connection:
                return function(connection, *args, **kwargs)
        except (exc.OperationalError, exc.InterfaceError, exc.TimeoutError) as e:
            raise StoreUnavailable(f"the store is not available: {type(e).__name__}") from e

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
        """``read`` in a thread."""
        loop = asyncio.get_running_loop()
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
