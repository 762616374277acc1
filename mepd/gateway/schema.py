"""The store's tables. Times are seconds since the epoch; ids are UUIDs in text."""

from __future__ import annotations

from sqlalchemy import (
    JSON,
    Boolean,
    Column,
    Float,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
)

metadata = MetaData()

# rows with the same person are the linked identities of one human
identities = Table(
    "identities",
    metadata,
    Column("id", String(36), primary_key=True),
    Column("person", String(36), nullable=False, index=True),
    Column("username", String(256), nullable=False, unique=True),
    Column("name", Text),
    Column("email", Text),
    Column("organization", Text),
    Column("identity_provider", String(36), nullable=False),
    Column("identity_type", String(32), nullable=False),
    Column("status", String(32), nullable=False),
)

clients = Table(
    "clients",
    metadata,
    Column("id", String(36), primary_key=True),
    Column("identity_id", String(36), nullable=False),
    Column("name", Text),
    Column("secret_hash", String(64), nullable=False),
    Column("created", Float, nullable=False),
    Column("revoked", Boolean, nullable=False, default=False),
)

tokens = Table(
    "tokens",
    metadata,
    Column("hash", String(64), primary_key=True),
    Column("id", String(36), nullable=False, unique=True),
    Column("identity_id", String(36), nullable=False, index=True),
    Column("client_id", String(36)),
    Column("scope", Text, nullable=False),
    Column("created", Float, nullable=False),
    Column("expires", Float, nullable=False),
    Column("revoked", Boolean, nullable=False, default=False),
    Column("grant_id", String(36), index=True),
)

functions = Table(
    "functions",
    metadata,
    Column("id", String(36), primary_key=True),
    Column("owner", String(36), nullable=False, index=True),
    Column("name", Text, nullable=False),
    Column("code", Text, nullable=False),
    Column("description", Text),
    Column("meta", JSON),
    Column("public", Boolean, nullable=False),
    Column("created", Float, nullable=False),
    Column("deleted", Boolean, nullable=False, default=False),
)

endpoints = Table(
    "endpoints",
    metadata,
    Column("id", String(36), primary_key=True),
    Column("owner", String(36), nullable=False, index=True),
    Column("name", Text, nullable=False),
    Column("display_name", Text),
    Column("multi_user", Boolean, nullable=False),
    Column("public", Boolean, nullable=False),
    Column("meta", JSON),
    Column("admins", JSON, nullable=False),
    Column("allowed_functions", JSON),
    Column("authentication_policy", String(36)),
    Column("high_assurance", Boolean, nullable=False, default=False),
    Column("created", Float, nullable=False),
    Column("online_until", Float, nullable=False, default=0.0),
    Column("heartbeat_period", Float, nullable=False, default=30.0),
    Column("deleted", Boolean, nullable=False, default=False),
    Column("locked_until", Float, nullable=False, default=0.0, server_default="0"),
)

# a user endpoint is remembered with all that starting it again takes
ueps = Table(
    "ueps",
    metadata,
    Column("id", String(36), primary_key=True),
    Column("endpoint_id", String(36), nullable=False, index=True),
    Column("identity_id", String(36), nullable=False, index=True),
    Column("config", JSON, nullable=False),
    Column("runtime", JSON, nullable=False),
    Column("created", Float, nullable=False),
    Column("online_until", Float, nullable=False, default=0.0),
    Column("heartbeat_period", Float, nullable=False, default=30.0),
)

broker_accounts = Table(
    "broker_accounts",
    metadata,
    Column("username", String(64), primary_key=True),
    Column("password_hash", String(64), nullable=False),
    Column("kind", String(8), nullable=False),
    Column("subject", String(36), nullable=False),
    Column("created", Float, nullable=False),
    Column("expires", Float, nullable=False),
    Index("broker_accounts_subject", "kind", "subject"),
)

task_groups = Table(
    "task_groups",
    metadata,
    Column("id", String(36), primary_key=True),
    Column("owner", String(36), nullable=False, index=True),
    Column("has_queue", Boolean, nullable=False),
    Column("created", Float, nullable=False),
)

# tasks.state: what is left to do for a task
STORED = 0  # not yet confirmed by the broker
SENT = 1  # in the user endpoint's queue or beyond
DONE = 2  # result stored

tasks = Table(
    "tasks",
    metadata,
    Column("id", String(36), primary_key=True),
    Column("owner", String(36), nullable=False),
    Column("group_id", String(36), nullable=False, index=True),
    Column("function_id", String(36), nullable=False),
    Column("endpoint_id", String(36), nullable=False),
    Column("uep_id", String(36), nullable=False),
    Column("state", Integer, nullable=False),
    Column("relayed", Boolean, nullable=False, default=False),
    # until then the process that stored it sees to it
    Column("lease", Float, nullable=False, default=0.0, server_default="0"),
    Column("payload", Text, nullable=False),
    Column("headers", JSON, nullable=False),
    Column("result", LargeBinary),
    Column("created", Float, nullable=False),
    Column("finished", Float),
    Index("tasks_endpoint", "endpoint_id", "state"),
    Index("tasks_expiry", "finished"),
    Index("tasks_open", "uep_id", "state"),
    Index("tasks_owner", "owner", "created"),
    Index("tasks_todo", "state", "relayed"),
)
