from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import pytest

from mepd.config import parslkeys
from mepd.config.uepconfig import (
    IGNORED,
    POOL_KEYS,
    PROCESSES,
    THREADS,
    check,
    default_workers,
    idle_limits,
    parse,
)
from mepd.errors import ConfigError
from mepd.uep.idle import IdleLimits, Movement, deadline

POOL = "engine: {type: ThreadPoolEngine}\n"


def test_defaults() -> None:
    config = parse(POOL)
    assert config.engine.type == "ThreadPoolEngine"
    assert config.engine.max_workers == default_workers("ThreadPoolEngine")
    assert config.heartbeat_period == 30.0
    assert (config.idle_soft, config.idle_hard) == (0, 0)
    assert config.allowed_functions is None
    assert not config.retry_lost_tasks and not config.debug


def test_everything_that_is_honoured() -> None:
    config = parse(
        """
        display_name: Debug queue
        debug: true
        heartbeat_period: 0.5
        idle_heartbeats_soft: 10
        idle_heartbeats_hard: 5760
        allowed_functions: [ABCDEF00-0000-4000-8000-000000000001]
        retry_lost_tasks: true
        amqp_port: 5671
        endpoint_setup: echo a
        endpoint_teardown: echo b
        engine:
          type: ProcessPoolEngine
          max_workers: 3
          working_dir: /scratch/me
          max_retries_on_system_failure: 2
        """
    )
    assert config.engine.max_workers == 3 and config.engine.retries == 2
    assert config.engine.working_dir == "/scratch/me"
    assert (config.idle_soft, config.idle_hard) == (10, 5760)
    assert config.allowed_functions == ("abcdef00-0000-4000-8000-000000000001",)
    assert config.heartbeat_period == 0.5 and config.amqp_port == 5671
    assert config.endpoint_setup == "echo a" and config.endpoint_teardown == "echo b"
    assert config.debug and config.retry_lost_tasks and config.display_name == "Debug queue"


def test_empty_values_of_a_template_are_defaults() -> None:
    config = parse(POOL + "endpoint_setup: \ndisplay_name: null\nallowed_functions:\n")
    assert config.endpoint_setup is None and config.allowed_functions is None


def test_max_workers_per_node_counts_where_max_workers_is_missing() -> None:
    config = parse("engine: {type: ThreadPoolEngine, max_workers_per_node: 7}")
    assert config.engine.max_workers == 7


def test_keys_of_the_peer_are_accepted_and_named() -> None:
    config = parse(POOL + "heartbeat_threshold: 120\nhigh_assurance: false\nadmins: []\n")
    assert config.ignored == ("admins", "heartbeat_threshold", "high_assurance")


@pytest.mark.parametrize(
    ("soft", "hard", "wanted"),
    [(0, 5760, (0, 0)), (10, 5760, (10, 5760)), (10, 3, (10, 11)), (10, 0, (10, 11))],
)
def test_idle_limits(soft: int, hard: int, wanted: tuple[int, int]) -> None:
    assert idle_limits(soft, hard) == wanted


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", ["engine: missing"]),
        ("- a", ["configuration", "no mapping"]),
        ("a: [", ["configuration:", "did not find"]),
        (POOL + "heartbeet_period: 3", ["heartbeet_period", "'heartbeat_period'"]),
        ("heartbeat_period: 3", ["engine: missing"]),
        ("engine: {max_workers: 3}", ["engine.type: missing"]),
        ("engine: {type: TreadPoolEngine}", ["'TreadPoolEngine'", "'ThreadPoolEngine'"]),
        ("engine: {type: ThreadPoolEngine, max_worker: 3}", ["'max_worker'", "'max_workers'"]),
        ("engine: {type: ThreadPoolEngine, max_workers: 0}", ["engine.max_workers", "from 1 to"]),
        ("engine: {type: ThreadPoolEngine, max_workers: many}", ["engine.max_workers", "'many'"]),
        (POOL + "heartbeat_period: 0", ["heartbeat_period", "from 0.1 to 86400"]),
        (POOL + "heartbeat_period: .nan", ["heartbeat_period"]),
        (POOL + "idle_heartbeats_soft: -1", ["idle_heartbeats_soft"]),
        (POOL + "debug: 'yes'", ["debug", "true or false"]),
        (POOL + "allowed_functions: abc", ["allowed_functions", "list"]),
        ("!!python/object/apply:os.system [id]", ["could not determine a constructor"]),
    ],
)
def test_errors_name_the_key_and_the_nearest(text: str, words: list[str]) -> None:
    with pytest.raises(ConfigError) as error:
        parse(text)
    for word in words:
        assert word in str(error.value)


KEYS = (
    "allowed_functions", "amqp_port", "debug", "display_name", "endpoint_setup",
    "endpoint_teardown", "engine", "heartbeat_period", "idle_heartbeats_hard",
    "idle_heartbeats_soft", "retry_lost_tasks", *IGNORED,
)  # fmt: skip
HOSTILE: list[Any] = [
    None, True, 0, -1, 1, 0.5, 5e-324, 1e308, math.inf, math.nan, 65536, 10**9, 2**64, 10**400,
    -(10**400), "", "x", "\0", "\ud800", "x" * 100_000, "../..", "a\nb", [], [[]], [1], ["x"],
    ["\ud800"], {}, {"a": 1}, {1: 2}, {"type": None}, b"x",
]  # fmt: skip


def engines() -> Iterator[tuple[dict[str, Any], set[str]]]:
    """A good engine block of each type, and the keys that it may have."""
    for kind in (THREADS, PROCESSES):
        yield {"type": kind}, set(POOL_KEYS)
    more = {*parslkeys.ENGINE, "strategy", "job_status_kwargs", "provider", "address"}
    launcher = {"type": "SimpleLauncher"}
    for kind, keys in parslkeys.EXECUTORS.items():
        provider = {"type": "SlurmProvider", "launcher": launcher}
        yield {"type": kind, "provider": provider}, {*keys, *more}


def configurations() -> Iterator[tuple[str, dict[str, Any]]]:
    """One key at a time with each hostile value, and which key that is."""
    for value in HOSTILE:
        for key in KEYS:
            yield key, {"engine": {"type": THREADS}, key: value}
        for block, keys in engines():
            for key in keys - {"type"}:
                yield key, {"engine": {**block, key: value}}
            for key in parslkeys.PROVIDERS["SlurmProvider"] if "provider" in block else ():
                provider = {**block["provider"], key: value}
                yield key, {"engine": {**block, "provider": provider}}


def test_any_value_of_any_key_is_taken_or_refused_by_name() -> None:
    refused = 0
    for key, values in configurations():
        try:
            config = check(values)
        except ConfigError as e:
            refused += 1
            assert key in str(e) or "launcher" in str(e), (key, values)
            continue
        assert 1 <= config.engine.max_workers <= 10_000, values
        assert 0.1 <= config.heartbeat_period <= 86400, values
        moved = Movement(0.0, received=1)
        for limit in (config.idle_soft, config.idle_hard):
            found = deadline(IdleLimits(config.heartbeat_period, limit, limit), moved)
            assert found is None or math.isfinite(found[0]), values
    assert refused > 1000


@pytest.mark.parametrize("kind", ["ThreadPoolEngine", "GlobusComputeEngine"])
@pytest.mark.parametrize(
    ("key", "value"), [("working_dir", "w" * 70_000), ("allowed_serializers", ["x" * 60] * 1500)]
)
def test_what_the_first_frame_to_a_worker_cannot_hold_is_refused(
    kind: str, key: str, value: Any
) -> None:
    with pytest.raises(ConfigError, match=f"engine.{key}"):
        check({"engine": {"type": kind, key: value}})
