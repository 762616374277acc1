"""The configuration of a UEP, as its template renders it: one frozen value, or an error
with the key.

The launch child checks it before the exec, so that a mistake is an answer to the user and
no dead UEP; the UEP reads it again, as what it was given.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from mepd.config import safeyaml
from mepd.errors import ConfigError

# Keys that globus-compute-endpoint knows and that mean nothing to a UEP of mepd's.
IGNORED = frozenset(
    {
        "admins",
        "audit_log_path",
        "authentication_policy",
        "detach_endpoint",
        "email",
        "environment",
        "funcx_service_address",
        "heartbeat_threshold",
        "high_assurance",
        "local_compute_services",
        "mu_child_ep_grace_period_s",
        "multi_user",
        "paths",
        "public",
        "subscription_id",
    }
)
POOL_KEYS = frozenset(
    {
        "type",
        "label",
        "max_workers",
        "max_workers_per_node",
        "working_dir",
        "allowed_serializers",
        "max_retries_on_system_failure",
        "run_in_sandbox",
    }
)
THREADS, PROCESSES = "ThreadPoolEngine", "ProcessPoolEngine"
PARSL_ENGINES = ("GlobusComputeEngine", "GlobusMPIEngine")


@dataclass(frozen=True)
class EngineConfig:
    """The ``engine`` block. ``retries``: how often a task whose worker died is run again."""

    type: str = THREADS
    max_workers: int = 1
    working_dir: str = "tasks_working_dir"
    allowed_serializers: tuple[str, ...] = ()
    retries: int = 0
    sandbox: bool = False


@dataclass(frozen=True)
class UepConfig:
    """Times in seconds; idle limits in heartbeats, 0 for never."""

    engine: EngineConfig = field(default_factory=EngineConfig)
    heartbeat_period: float = 30.0
    idle_soft: int = 0
    idle_hard: int = 0
    display_name: str | None = None
    debug: bool = False
    allowed_functions: tuple[str, ...] | None = None
    retry_lost_tasks: bool = False
    amqp_port: int | None = None
    endpoint_setup: str | None = None
    endpoint_teardown: str | None = None
    ignored: tuple[str, ...] = ()


_KEYS = frozenset(
    {
        "engine",
        "heartbeat_period",
        "idle_heartbeats_soft",
        "idle_heartbeats_hard",
        "display_name",
        "debug",
        "allowed_functions",
        "retry_lost_tasks",
        "amqp_port",
        "endpoint_setup",
        "endpoint_teardown",
    }
)


def _unknown(name: str, known: Iterable[str], what: str) -> ConfigError:
    import difflib  # 5 ms, for errors alone

    near = difflib.get_close_matches(name, list(known), n=1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    return ConfigError(f"unknown {what} {name[:80]!r}{hint}")


class _Block:
    """Typed reading of one mapping; errors carry the key's full name."""

    def __init__(self, values: dict[str, Any], prefix: str = "") -> None:
        self._values = values
        self._prefix = prefix

    def _fail(self, key: str, need: str) -> ConfigError:
        shown = repr(self._values.get(key))[:80]
        return ConfigError(f"{self._prefix}{key}: {need}, not {shown}")

    def integer(self, key: str, default: int, low: int) -> int:
        value = self._values.get(key)
        if value is None:
            return default
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if type(value) is not int or value < low:
            raise self._fail(key, f"needs a whole number of at least {low}")
        return int(value)

    def seconds(self, key: str, default: float) -> float:
        value = self._values.get(key)
        if value is None:
            return default
        if type(value) not in (int, float) or not math.isfinite(value) or value <= 0:
            raise self._fail(key, "needs a number of seconds above 0")
        return float(value)

    def boolean(self, key: str) -> bool:
        value = self._values.get(key)
        if value is None:
            return False
        if type(value) is not bool:
            raise self._fail(key, "needs true or false")
        return bool(value)

    def text(self, key: str, default: str | None = None) -> str | None:
        value = self._values.get(key)
        if value is None:
            return default
        if type(value) is not str:
            raise self._fail(key, "needs a string")
        return str(value)

    def names(self, key: str) -> tuple[str, ...] | None:
        value = self._values.get(key)
        if value is None:
            return None
        if type(value) is not list or any(type(v) is not str for v in value):
            raise self._fail(key, "needs a list of strings")
        return tuple(value)


def default_workers(engine_type: str) -> int:
    """As concurrent.futures chooses, which is what the peer's engines do."""
    cpus = len(os.sched_getaffinity(0))
    return min(32, cpus + 4) if engine_type == THREADS else cpus


def _engine(value: Any) -> EngineConfig:
    if type(value) is not dict:
        raise ConfigError("engine: missing; needs a block with a type")
    kind = value.get("type")
    if type(kind) is not str:
        raise ConfigError("engine.type: missing")
    if kind in PARSL_ENGINES:
        raise ConfigError(
            f"engine.type: {kind} is not available yet in this version of mepd; "
            f"use {THREADS} or {PROCESSES}"
        )
    if kind not in (THREADS, PROCESSES):
        raise _unknown(kind, (THREADS, PROCESSES, *PARSL_ENGINES), "engine.type")
    for key in value:
        if key not in POOL_KEYS:
            raise _unknown(str(key), POOL_KEYS, f"key of {kind}: engine.")
    block = _Block(value, "engine.")
    per_node = block.integer("max_workers_per_node", default_workers(kind), 1)
    return EngineConfig(
        type=kind,
        max_workers=block.integer("max_workers", per_node, 1),
        working_dir=block.text("working_dir") or "tasks_working_dir",
        allowed_serializers=block.names("allowed_serializers") or (),
        retries=block.integer("max_retries_on_system_failure", 0, 0),
        sandbox=block.boolean("run_in_sandbox"),
    )


def idle_limits(soft: int, hard: int) -> tuple[int, int]:
    """The limits in force: without a soft limit none at all; hard is above soft."""
    return (soft, max(soft + 1, hard)) if soft else (0, 0)


def parse(text: str) -> UepConfig:
    """The configuration that ``text`` spells. Raises ConfigError naming line or key."""
    return check(safeyaml.load_mapping(text, "configuration"))


def check(values: dict[str, Any]) -> UepConfig:
    """The configuration that these values make. Raises ConfigError naming the key."""
    for key in values:
        if key not in _KEYS and key not in IGNORED:
            raise _unknown(str(key), _KEYS | IGNORED, "key")
    block = _Block(values)
    soft, hard = idle_limits(
        block.integer("idle_heartbeats_soft", 0, 0), block.integer("idle_heartbeats_hard", 5760, 0)
    )
    functions = block.names("allowed_functions")
    return UepConfig(
        engine=_engine(values.get("engine")),
        heartbeat_period=block.seconds("heartbeat_period", 30.0),
        idle_soft=soft,
        idle_hard=hard,
        display_name=block.text("display_name"),
        debug=block.boolean("debug"),
        allowed_functions=tuple(f.lower() for f in functions) if functions is not None else None,
        retry_lost_tasks=block.boolean("retry_lost_tasks"),
        amqp_port=block.integer("amqp_port", 0, 1) or None,
        endpoint_setup=block.text("endpoint_setup"),
        endpoint_teardown=block.text("endpoint_teardown"),
        ignored=tuple(sorted(str(k) for k in values if k in IGNORED)),
    )
