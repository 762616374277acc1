"""The configuration of a UEP, as its template renders it: one frozen value, or an error
with the key.

The launch child checks it before the exec, so that a mistake is an answer to the user and
no dead UEP; the UEP reads it again, as what it was given.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from mepd.config import serializers
from mepd.config.block import Block, unknown
from mepd.errors import ConfigError

if TYPE_CHECKING:
    from mepd.config.parslspec import ParslSpec

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
WORKERS_MAX = 10_000
"""Workers that count for what is taken from the broker ahead, which AMQP tells in 16 bits."""
SETUP_TEXT_MAX = 16 * 1024
"""Characters, as JSON, of what a worker is told in the header of its first frame."""
PERIOD_MIN, PERIOD_MAX = 0.1, 86400.0
"""Seconds between heartbeats; mepd takes a user endpoint that tells others for hostile."""


@dataclass(frozen=True)
class EngineConfig:
    """The ``engine`` block. ``retries``: how often a task whose worker died is run again.

    ``parsl`` is set for the engines on Parsl; ``max_workers`` is then what all its blocks
    may run at a time, as far as is known before there is one.
    """

    type: str = THREADS
    max_workers: int = 1
    working_dir: str = "tasks_working_dir"
    allowed_serializers: tuple[str, ...] = ()
    retries: int = 0
    sandbox: bool = False
    parsl: ParslSpec | None = None


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


def default_workers(engine_type: str) -> int:
    """As concurrent.futures chooses, which is what the peer's engines do."""
    cpus = len(os.sched_getaffinity(0))
    return min(32, cpus + 4) if engine_type == THREADS else cpus


def _workers_per_node(spec: ParslSpec) -> int:
    """As Parsl guesses before the first node is there; a node's cores are unknown."""
    if spec.mpi:
        return int(spec.executor.get("max_workers_per_block", 1))
    most = spec.executor.get("max_workers_per_node")
    found = [most] if most else []
    accelerators = spec.executor.get("available_accelerators")
    if accelerators:
        found.append(accelerators if type(accelerators) is int else len(accelerators))
    cores = (spec.provider.arguments if spec.provider else {}).get("cores_per_node")
    if not found:
        cores = cores or os.cpu_count() or 1
        found.append(int(min(WORKERS_MAX, cores / spec.executor.get("cores_per_worker", 1))))
    return int(max(1, min(found)))


def _for_workers(block: Block, key: str, value: Any) -> Any:
    if len(json.dumps(value)) > SETUP_TEXT_MAX:
        raise block.fail(key, f"needs at most {SETUP_TEXT_MAX} characters")
    return value


def _working_dir(block: Block, value: str | None) -> str:
    return str(_for_workers(block, "working_dir", value or "tasks_working_dir"))


def _serializers(block: Block) -> tuple[str, ...]:
    key = "allowed_serializers"
    names = tuple(_for_workers(block, key, block.names(key) or ()))
    serializers.check(f"engine.{key}", names)
    return names


def _parsl_engine(value: dict[str, Any]) -> EngineConfig:
    from mepd.config import parslengine  # of no use to the others

    spec = parslengine.check(value)
    block = Block(value, "engine.")
    provider = spec.provider.arguments if spec.provider else {}
    nodes = provider.get("nodes_per_block", 1) * max(1, provider.get("max_blocks", 1))
    return EngineConfig(
        type=spec.type,
        max_workers=min(WORKERS_MAX, nodes * _workers_per_node(spec)),
        working_dir=_working_dir(block, spec.executor.get("working_dir")),
        allowed_serializers=_serializers(block),
        retries=block.integer("max_retries_on_system_failure", 0, 0),
        sandbox=block.boolean("run_in_sandbox"),
        parsl=spec,
    )


def _engine(value: Any) -> EngineConfig:
    if type(value) is not dict:
        raise ConfigError("engine: missing; needs a block with a type")
    kind = value.get("type")
    if type(kind) is not str:
        raise ConfigError("engine.type: missing")
    if kind in PARSL_ENGINES:
        return _parsl_engine(value)
    if kind not in (THREADS, PROCESSES):
        raise unknown(kind, (THREADS, PROCESSES, *PARSL_ENGINES), "engine.type")
    for key in value:
        if key not in POOL_KEYS:
            raise unknown(str(key), POOL_KEYS, f"key of {kind}: engine.")
    block = Block(value, "engine.")
    per_node = block.integer("max_workers_per_node", default_workers(kind), 1, WORKERS_MAX)
    return EngineConfig(
        type=kind,
        max_workers=block.integer("max_workers", per_node, 1, WORKERS_MAX),
        working_dir=_working_dir(block, block.text("working_dir")),
        allowed_serializers=_serializers(block),
        retries=block.integer("max_retries_on_system_failure", 0, 0),
        sandbox=block.boolean("run_in_sandbox"),
    )


def idle_limits(soft: int, hard: int) -> tuple[int, int]:
    """The limits in force: without a soft limit none at all; hard is above soft."""
    return (soft, max(soft + 1, hard)) if soft else (0, 0)


def parse(text: str) -> UepConfig:
    """The configuration that ``text`` spells. Raises ConfigError naming line or key."""
    from mepd.config import safeyaml  # not loaded where the values have been parsed

    return check(safeyaml.load_mapping(text, "configuration"))


def check(values: dict[str, Any]) -> UepConfig:
    """The configuration that these values make. Raises ConfigError naming the key."""
    for key in values:
        if key not in _KEYS and key not in IGNORED:
            raise unknown(str(key), _KEYS | IGNORED, "key")
    block = Block(values)
    soft, hard = idle_limits(
        block.integer("idle_heartbeats_soft", 0, 0), block.integer("idle_heartbeats_hard", 5760, 0)
    )
    functions = block.names("allowed_functions")
    return UepConfig(
        engine=_engine(values.get("engine")),
        heartbeat_period=block.seconds("heartbeat_period", 30.0, PERIOD_MIN, PERIOD_MAX),
        idle_soft=soft,
        idle_hard=hard,
        display_name=block.text("display_name"),
        debug=block.boolean("debug"),
        allowed_functions=tuple(f.lower() for f in functions) if functions is not None else None,
        retry_lost_tasks=block.boolean("retry_lost_tasks"),
        amqp_port=block.integer("amqp_port", 0, 1, 65535) or None,
        endpoint_setup=block.text("endpoint_setup"),
        endpoint_teardown=block.text("endpoint_teardown"),
        ignored=tuple(sorted(str(k) for k in values if k in IGNORED)),
    )
