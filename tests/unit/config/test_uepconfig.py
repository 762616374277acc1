from __future__ import annotations

import pytest

from mepd.config.uepconfig import default_workers, idle_limits, parse
from mepd.errors import ConfigError

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
        ("engine: {type: ThreadPoolEngine, max_workers: 0}", ["engine.max_workers", "at least 1"]),
        ("engine: {type: ThreadPoolEngine, max_workers: many}", ["engine.max_workers", "'many'"]),
        (POOL + "heartbeat_period: 0", ["heartbeat_period", "above 0"]),
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
