"""Task messages with anything anywhere, and user endpoints without descriptors."""

from __future__ import annotations

import copy
import json
import os
import resource
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pika
import pytest
from rabbit import Rabbit
from tcpproxy import Proxy
from uep_fixtures import (
    PROCESSES,
    SERIALIZER,
    THREADS,
    Service,
    Uep,
    pack_call,
    services,
    starters,
    until,
    waits_for,
)

from mepd.wire.message import VERSION

Start = Callable[..., Uep]
Message = tuple[dict[str, Any], bytes]

MISSING = object()
HOSTILE: list[Any] = [
    MISSING, None, True, 0, -1, 2**63 - 1, "", "x", "\0", " ", "x" * 70_000, "é" * 12_000,
    [], [[]], ["x"], [1, 2], {}, {"a": 1}, "null", "{}", "[]", '["x"]', "[1]", "NaN", '"\\ud800"',
    '{"priority": 1e400}', '{"a": {"b": [1]}}', "[" * 5000, "1" * 5000, b"\xff\xfe",
    json.dumps(["x" * 70_000]), json.dumps(["x"] * 20_000), json.dumps(["\ud800" * 1000]),
    uuid.uuid4().hex, f"{{{uuid.uuid4()}}}",
]  # fmt: skip


@pytest.fixture
def service(rabbit: Rabbit) -> Iterator[Service]:
    yield from services(rabbit)


@pytest.fixture
def start(service: Service, tmp_path: Path) -> Iterator[Start]:
    yield from starters(service, tmp_path)


@pytest.fixture
def proxy(rabbit: Rabbit) -> Iterator[Proxy]:
    made = Proxy(rabbit.port)
    yield made
    made.end()


def double(x: int) -> int:
    return 2 * x


def paths(value: Any, before: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    yield before
    for key in value if type(value) is dict else ():
        yield from paths(value[key], (*before, key))


def put(value: Any, path: tuple[str, ...], new: Any) -> Any:
    if not path:
        return new
    made = node = copy.deepcopy(value)
    for key in path[:-1]:
        node = node[key]
    if new is MISSING:
        del node[path[-1]]
    else:
        node[path[-1]] = new
    return made


def good(service: Service, task_id: str, buffer: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """The headers and the object of a task as the service sends it."""
    headers = {
        "task_uuid": task_id,
        "function_uuid": service.function_id,
        "resource_specification": "null",
        "result_serializers": "[]",
    }
    data = {"task_id": task_id, "container_id": None, "container": None, "task_buffer": buffer}
    return headers, {"message_type": "task", "data": data}


def messages(service: Service) -> Iterator[tuple[str, dict[str, Any], bytes]]:
    """One thing at a time made hostile: task id, headers, body."""
    buffer = pack_call(double, 3)
    for value in HOSTILE:
        for name in ("task_uuid", "function_uuid", "resource_specification", "result_serializers"):
            task_id = str(uuid.uuid4())
            headers, task = good(service, task_id, buffer)
            yield task_id, put(headers, (name,), value), packed(task)
        for path in paths(task):
            if value is MISSING and not path:
                continue
            task_id = str(uuid.uuid4())
            headers, task = good(service, task_id, buffer)
            yield task_id, headers, packed(put(task, path, value))


def packed(task: Any) -> bytes:
    return VERSION + json.dumps(task, default=repr).encode()


def send(service: Service, headers: dict[str, Any], body: bytes) -> None:
    properties = pika.BasicProperties(headers=headers, delivery_mode=2)
    service.channel().basic_publish("", service.task_queue, body, properties)


@pytest.mark.parametrize("config", [THREADS, PROCESSES], ids=["threads", "processes"])
def test_a_task_with_anything_anywhere_is_answered_once(
    service: Service, start: Start, tmp_path: Path, config: dict[str, Any]
) -> None:
    """And it costs the tasks beside it nothing."""
    uep = start(config)
    begun, go = tmp_path / "begun", tmp_path / "go"
    beside = service.send(waits_for, str(begun), str(go))
    until(begun.exists, "the task beside to begin")
    sent = []
    for task_id, headers, body in messages(service):
        send(service, headers, body)
        sent.append(task_id)
    answered: Counter[str] = Counter()
    while len(answered) < len(sent):
        answered[service.result().task_id] += 1
    assert set(answered) == set(sent)
    go.touch()
    last = service.result()
    assert last.task_id == beside and SERIALIZER.deserialize(last.data) == "value"
    assert begun.read_text() == "begun\n"
    uep.process.terminate()
    assert uep.wait() == 0
    while service.depth(service.result_queue):
        answered[service.result().task_id] += 1
    assert max(answered.values()) == 1
    assert service.depth(service.task_queue) == 0


def test_a_task_that_nobody_can_hand_on_never_loops(service: Service, start: Start) -> None:
    """Where lost tasks are run again, one that ended the endpoint would end the next."""
    uep = start({**THREADS, "retry_lost_tasks": True})
    task_id = service.send(double, 1, result_serializers=json.dumps(["x" * 70_000]))
    result = service.result()
    assert result.task_id == task_id and "result_serializers" in result.data
    service.send(double, 4)
    assert service.value() == 8
    assert uep.process.poll() is None


@pytest.mark.parametrize("config", [THREADS, PROCESSES], ids=["threads", "processes"])
def test_R6_no_descriptor_left_when_the_connection_breaks(
    service: Service, start: Start, proxy: Proxy, tmp_path: Path, config: dict[str, Any]
) -> None:
    """It waits for some, and what runs goes on."""
    url = service.rabbit.url().replace(f":{service.rabbit.port}/", f":{proxy.port}/")
    uep = start(config, creds=service.creds(tasks=url, results=url, heartbeats=url))
    begun, go = tmp_path / "begun", tmp_path / "go"
    task_id = service.send(waits_for, str(begun), str(go))
    until(begun.exists, "the task to begin")
    pid = uep.process.pid
    _, most = before = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (3, most))
    proxy.cut()
    until(lambda: "cannot connect: Too many open files" in uep.text(), "it to find out")
    go.touch()
    resource.prlimit(pid, resource.RLIMIT_NOFILE, before)
    result = service.result()
    assert result.task_id == task_id and SERIALIZER.deserialize(result.data) == "value"
    assert begun.read_text() == "begun\n"
    uep.process.terminate()
    assert uep.wait() == 0


def test_a_teardown_that_cannot_be_run_is_told(service: Service, start: Start) -> None:
    uep = start({**THREADS, "endpoint_teardown": "true"})
    uep.report()
    pid = uep.process.pid
    _, most = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (3, most))
    uep.process.terminate()
    assert uep.wait() == 0
    assert "endpoint_teardown cannot be run: [Errno 24] Too many open files" in uep.text()


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({**THREADS, "heartbeat_period": 10**400}, "a number of 401 characters"),
        ({**THREADS, "heartbeat_period": 1e-300}, "heartbeat_period: needs a number of seconds"),
        ({**THREADS, "heartbeat_period": 86401}, "heartbeat_period: needs a number of seconds"),
        ({**THREADS, "heartbeat_period": 10**250}, "heartbeat_period: needs a number of seconds"),
        ({**THREADS, "idle_heartbeats_soft": 10**250}, "idle_heartbeats_soft: needs a whole"),
        ({**THREADS, "idle_heartbeats_hard": 2**63}, "idle_heartbeats_hard: needs a whole number"),
        ({**THREADS, "amqp_port": 65536}, "amqp_port: needs a whole number from 1 to 65535"),
        ({"engine": {"type": "ThreadPoolEngine", "max_workers": 40_000}}, "engine.max_workers:"),
        ({"engine": {"type": "ThreadPoolEngine", "working_dir": "a\0b"}}, "engine.working_dir:"),
        ({**THREADS, "endpoint_setup": "\0"}, "endpoint_setup: needs a string"),
        (
            {"engine": {"type": "GlobusComputeEngine", "cores_per_worker": 10**400}},
            "a number of 401 characters",
        ),
    ],
)
def test_a_number_or_text_beyond_use_is_told(
    service: Service, start: Start, config: dict[str, Any], words: str
) -> None:
    uep = start(config)
    assert uep.wait() == os.EX_CONFIG
    assert words in service.status().global_state["error"]
    assert words in uep.text() and "Traceback" not in uep.text()


def test_a_spoilt_result_of_an_earlier_life_is_an_error(
    service: Service, start: Start, proxy: Proxy, tmp_path: Path
) -> None:
    url = service.rabbit.url().replace(f":{service.rabbit.port}/", f":{proxy.port}/")
    uep = start(creds=service.creds(tasks=url, results=url, heartbeats=url))
    begun, go = tmp_path / "begun", tmp_path / "go"
    ids = [service.send(waits_for, str(begun), str(go)) for _ in range(2)]
    until(lambda: begun.exists() and begun.read_text().count("begun") == 2, "both to begin")
    proxy.end()
    go.touch()
    until(lambda: sorted(uep.stored()) == sorted(ids), "both results on disk")
    uep.kill()
    spoilt = uep.folder / "unacked_results" / ids[0]
    spoilt.write_bytes(spoilt.read_bytes()[:-20])
    start()
    found = {r.task_id: r for r in (service.result(), service.result())}
    assert found[ids[0]].error_code == "ResultLost"
    assert SERIALIZER.deserialize(found[ids[1]].data) == "value"
    until(lambda: not uep.stored(), "both to be settled")
    until(lambda: service.depth(service.task_queue) == 0, "both to be acknowledged")
    assert begun.read_text() == "begun\n" * 2
