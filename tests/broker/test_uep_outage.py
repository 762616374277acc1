"""mepd-uep while its broker, its connection, its channel or its queue comes and goes."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from rabbit import Rabbit, server_script
from tcpproxy import Proxy
from uep_fixtures import (
    PROCESSES,
    SERIALIZER,
    THREADS,
    Service,
    Uep,
    services,
    starters,
    until,
    waits_for,
)

from mepd.wire.message import Result
from tests.conftest import require
from tests.figures import figure

Start = Callable[..., Uep]
MESSAGE_MAX = 300_000


@pytest.fixture(scope="module")
def own_rabbit() -> Iterator[Rabbit]:
    """A node that these tests may stop, and that times unacked deliveries out early (T6)."""
    require(server_script() is not None, "rabbitmq-server")
    node = Rabbit()
    node.write_conf(f"consumer_timeout = 3000\nmax_message_size = {MESSAGE_MAX}\n")
    advanced = node.dir / "advanced.config"
    advanced.write_text("[{rabbit, [{channel_tick_interval, 1000}]}].\n")
    (node.dir / "rabbitmq-env.conf").write_text(f"ADVANCED_CONFIG_FILE={advanced}\n")
    try:
        node.start()
        yield node
    finally:
        node.remove()


@pytest.fixture
def service(own_rabbit: Rabbit) -> Iterator[Service]:
    yield from services(own_rabbit)


@pytest.fixture
def start(service: Service, tmp_path: Path) -> Iterator[Start]:
    yield from starters(service, tmp_path)


@pytest.fixture
def proxy(own_rabbit: Rabbit) -> Iterator[Proxy]:
    made = Proxy(own_rabbit.port)
    yield made
    made.end()


def double(x: int) -> int:
    return 2 * x


def test_broker_restarted_with_a_result_waiting(
    own_rabbit: Rabbit, service: Service, start: Start, tmp_path: Path
) -> None:
    uep = start()
    uep.report()
    begun, go = tmp_path / "begun", tmp_path / "go"
    task_id = service.send(waits_for, str(begun), str(go))
    until(begun.exists, "the task to begin")
    own_rabbit.stop()
    go.touch()
    until(lambda: uep.stored() == [task_id], "the result on disk")
    own_rabbit.start()
    assert service.value(60) == "value"
    until(lambda: uep.report().outstanding == 0, "the task to be settled")
    assert uep.stored() == [] and begun.read_text() == "begun\n"
    service.send(double, 4)
    assert service.value() == 8
    uep.process.terminate()
    assert uep.wait() == 0
    assert service.depth(service.task_queue) == service.depth(service.result_queue) == 0


def noted(path: str, n: int) -> int:
    with open(path, "a") as f:
        f.write(f"{n}\n")
    return 2 * n


@pytest.mark.figures
def test_A2_tasks_outlive_restarts_of_the_broker(
    own_rabbit: Rabbit, service: Service, start: Start, tmp_path: Path
) -> None:
    """In order and by SIGKILL: each that the broker had taken runs once and has its value."""
    uep, notes, chance = start(), tmp_path / "notes", random.Random(time.time_ns())
    uep.report()
    ids: dict[str, int] = {}
    for number in range(figure(2, 20)):
        service.channel().confirm_delivery()
        some = range(len(ids), len(ids) + figure(150, 500))
        ids |= {service.send(noted, str(notes), n): n for n in some}
        time.sleep(chance.uniform(0, figure(1, 3)))
        own_rabbit.kill() if number % 2 else own_rabbit.stop()
        time.sleep(chance.uniform(0, 1))
        own_rabbit.start()
    found: set[str] = set()

    def take() -> None:
        result = service.result(120)  # one whose confirm or ack was lost comes twice
        assert SERIALIZER.deserialize(result.data) == 2 * ids[result.task_id], result
        found.add(result.task_id)

    while found != set(ids):
        take()
    until(lambda: service.depth(service.task_queue) == 0, "all to be taken again", 120)
    until(lambda: uep.report().outstanding == 0 and not uep.stored(), "all to be settled", 120)
    while service.depth(service.result_queue):
        take()
    assert sorted(map(int, notes.read_text().split())) == sorted(ids.values())


def test_result_of_a_dead_uep_is_sent_by_the_next(
    own_rabbit: Rabbit, service: Service, start: Start, tmp_path: Path
) -> None:
    uep = start()
    uep.report()
    begun, go = tmp_path / "begun", tmp_path / "go"
    task_id = service.send(waits_for, str(begun), str(go))
    until(begun.exists, "the task to begin")
    own_rabbit.stop()
    go.touch()
    until(lambda: uep.stored() == [task_id], "the result on disk")
    uep.kill()
    own_rabbit.start()
    uep = start()
    assert service.value(60) == "value"
    until(lambda: uep.report().outstanding == 0, "the task to be settled")
    uep.process.terminate()
    assert uep.wait() == 0
    assert begun.read_text() == "begun\n"
    assert service.depth(service.task_queue) == service.depth(service.result_queue) == 0


def test_stop_while_the_broker_is_gone(
    own_rabbit: Rabbit, service: Service, start: Start
) -> None:
    uep = start()
    uep.report()
    own_rabbit.stop()
    try:
        uep.process.terminate()
        assert uep.wait(10) == 0
    finally:
        own_rabbit.start()


def test_start_while_the_broker_is_gone(
    own_rabbit: Rabbit, service: Service, start: Start
) -> None:
    own_rabbit.stop()
    try:
        uep = start()
        until(lambda: "next attempt" in uep.text(), "a failed attempt")
    finally:
        own_rabbit.start()
    uep.report()
    service.send(double, 4)
    assert service.value() == 8


def test_connection_cut_under_load_loses_and_doubles_nothing(
    own_rabbit: Rabbit, service: Service, start: Start, proxy: Proxy
) -> None:
    url = own_rabbit.url().replace(f":{own_rabbit.port}/", f":{proxy.port}/")
    uep = start(creds=service.creds(tasks=url, results=url, heartbeats=url))
    uep.report()
    ids = {service.send(double, n): n for n in range(300)}
    found = {}
    for cut in (50, 120, 200):
        until(lambda: service.depth(service.result_queue) >= cut - len(found), "results")
        proxy.cut()
    extra = 0
    while len(found) < 300:
        result = service.result(60)
        assert SERIALIZER.deserialize(result.data) == 2 * ids[result.task_id], result
        extra += result.task_id in found
        found[result.task_id] = result
    until(lambda: uep.report().outstanding == 0, "all settled")
    # a confirm may be cut off, which makes its result unconfirmed; never more than in flight
    assert extra + service.depth(service.result_queue) <= 3 * 68
    assert service.depth(service.task_queue) == 0


def test_a_slow_network_costs_time_only(
    own_rabbit: Rabbit, service: Service, start: Start
) -> None:
    """25 KB/s, and 20 ms for each piece."""
    wire = Proxy(own_rabbit.port, piece=512, delay=0.02)
    try:
        url = own_rabbit.url().replace(f":{own_rabbit.port}/", f":{wire.port}/")
        uep = start(creds=service.creds(tasks=url, results=url, heartbeats=url))
        uep.report()
        ids = {service.send(double, n): n for n in range(30)}
        found = service.results(30)
        assert {t: SERIALIZER.deserialize(r.data) // 2 for t, r in found.items()} == ids
        until(lambda: uep.report().outstanding == 0, "all settled")
        assert service.depth(service.result_queue) == service.depth(service.task_queue) == 0
    finally:
        wire.end()


def test_connections_cut_after_any_number_of_bytes(
    own_rabbit: Rabbit, service: Service, start: Start
) -> None:
    """In the handshakes of AMQP, amid a delivery, amid a result: it comes back and goes on."""
    lives = [8, 530, 560, 620, 2500, 6000]
    wire = Proxy(own_rabbit.port, lives=lives)
    try:
        url = own_rabbit.url().replace(f":{own_rabbit.port}/", f":{wire.port}/")
        uep = start(creds=service.creds(tasks=url, results=url, heartbeats=url))
        ids = {service.send(double, n): n for n in range(60)}
        found: dict[str, Any] = {}
        while len(found) < 60:
            result = service.result(90)
            assert SERIALIZER.deserialize(result.data) == 2 * ids[result.task_id], result
            found[result.task_id] = result
        assert wire.lives == [] and uep.process.poll() is None
        until(lambda: service.depth(service.task_queue) == 0, "all settled")
    finally:
        wire.end()


def test_T6_a_channel_closed_by_the_consumer_timeout_costs_nothing(
    service: Service, start: Start, tmp_path: Path
) -> None:
    uep = start()
    uep.report()
    begun, go = tmp_path / "begun", tmp_path / "go"
    service.send(waits_for, str(begun), str(go))
    until(lambda: "tasks: channel closed" in uep.text(), "the broker's timeout")
    until(lambda: uep.text().count("tasks: channel closed") >= 2, "another timeout")
    go.touch()
    assert service.value() == "value"
    assert begun.read_text() == "begun\n"
    until(lambda: uep.report().outstanding == 0, "the task to be settled")
    uep.process.terminate()
    assert uep.wait() == 0
    assert service.depth(service.task_queue) == service.depth(service.result_queue) == 0


def test_A10_tasks_longer_than_the_consumer_timeout_run_once(
    service: Service, start: Start, tmp_path: Path
) -> None:
    """Also those that wait behind one, and are given to another channel each time."""
    uep = start(PROCESSES)
    uep.report()
    go = tmp_path / "go"
    begun = [tmp_path / f"begun{n}" for n in range(5)]
    ids = [service.send(waits_for, str(path), str(go)) for path in begun]
    until(lambda: uep.text().count("tasks: channel closed") >= 3, "three timeouts")
    go.touch()
    found = service.results(5)
    assert sorted(found) == sorted(ids)
    assert {SERIALIZER.deserialize(r.data) for r in found.values()} == {"value"}
    assert [path.read_text() for path in begun] == ["begun\n"] * 5
    until(lambda: uep.report().outstanding == 0, "the tasks to be settled")
    uep.process.terminate()
    assert uep.wait() == 0
    assert service.depth(service.task_queue) == service.depth(service.result_queue) == 0


def test_A3_queue_deleted_and_made_again(service: Service, start: Start) -> None:
    uep = start()
    uep.report()
    service.channel().queue_delete(service.task_queue)
    until(lambda: "cancelled the consumer" in uep.text(), "the loss to be noticed")
    until(lambda: "NOT_FOUND" in uep.text(), "a failed attempt")
    service.channel().queue_declare(service.task_queue, durable=True)
    service.send(double, 4)
    assert service.value() == 8


def test_queue_held_by_another_consumer(
    own_rabbit: Rabbit, service: Service, start: Start
) -> None:
    other = own_rabbit.connect()
    other.channel().basic_consume(service.task_queue, lambda *_: None, exclusive=True)
    uep = start()
    until(lambda: "tasks: channel closed" in uep.text(), "the refusal")
    assert uep.process.poll() is None
    other.close()
    uep.report()
    service.send(double, 4)
    assert service.value() == 8


def test_unroutable_results_wait(service: Service, start: Start) -> None:
    uep = start({**THREADS, "heartbeat_period": 0.3})
    uep.report()
    channel = service.channel()
    channel.queue_unbind(service.result_queue, service.exchange, service.result_queue)
    task_id = service.send(double, 4)
    until(lambda: uep.stored() == [task_id], "the result on disk")
    channel.queue_bind(service.result_queue, service.exchange, service.result_queue)
    assert service.value() == 8
    until(lambda: uep.stored() == [], "the store to be empty")


def results_of(service: Service, wanted: set[str]) -> dict[str, Result]:
    """Results of all these tasks; one whose confirm was lost with a channel comes twice."""
    found: dict[str, Result] = {}
    while not wanted <= found.keys():
        found |= service.results(1)
    return found


def large() -> str:
    return "x" * 1_000_000


def test_a_result_over_the_brokers_limit_is_an_error_that_says_so(
    service: Service, start: Start
) -> None:
    """It closes the channel: what else was on its way is sent again, and tasks go on."""
    start().report()
    small = [service.send(double, n) for n in range(5)]
    oversize = service.send(large)
    found = results_of(service, {*small, oversize})
    assert found[oversize].error_code == "MaxResultSizeExceeded"
    assert f"at most {MESSAGE_MAX} bytes" in found[oversize].data
    assert all(found[i].error_code is None for i in small)
    after = service.send(double, 4)
    assert results_of(service, {after})[after].error_code is None
