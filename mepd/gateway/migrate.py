"""The store is brought to the shape that this version needs, by one process at a time."""

from __future__ import annotations

from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.util import CommandError
from sqlalchemy import Connection, inspect, text

from mepd.errors import ConfigError
from mepd.gateway import schema

_LOCK = 0x6D657064
"""Of pg_advisory_xact_lock(): "mepd". SQLite's transactions that write exclude each other."""
_BASELINE = "0001"


def steps(tx: Connection) -> Config:
    """What alembic's commands take to work in the transaction ``tx``."""
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    config.set_main_option("path_separator", "os")
    config.attributes["connection"] = tx
    return config


def upgrade(tx: Connection) -> None:
    """Make or change the tables, all or nothing; ``tx`` is a transaction that writes.

    Raises ConfigError for a store of a newer version of mepd.
    """
    if tx.dialect.name == "postgresql":  # an index of many rows takes its time
        tx.execute(text("SET LOCAL statement_timeout = 0; SET LOCAL lock_timeout = 0"))
        tx.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _LOCK})
    tables = set(inspect(tx).get_table_names())
    config = steps(tx)
    if "identities" in tables and "alembic_version" not in tables:
        schema.metadata.create_all(tx)  # made before there were steps
        command.stamp(config, _BASELINE)
    try:
        command.upgrade(config, "head")
    except CommandError as e:
        raise ConfigError(f"database: is not of this version of mepd: {e}") from None
