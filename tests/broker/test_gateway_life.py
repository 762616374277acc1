"""What the gateway does when endpoints, the broker, the store or itself go away."""

from __future__ import annotations

import os
import resource
import signal
import sqlite3
import subprocess
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pika
import pytest
import requests
from gateway_fixtures import FakeMep, Site, User, payload, poll, running_site, unique

from mepd.wire import message
from rabbit import server_script

from tests.conftest import require


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    require(server_script() is not None, "rabbitmq-server")
    with running_site(start_timeout=5, offline_patience=60) as site:
        yield site


@pytest.fixture(scope="module")
def admin(site: Site) -> User:
    return User(site, unique("admin"))


@pytest.fixture(scope="module")
def harper(site: Site) -> User:
    return User(site, unique("harper"))


@pytest.fixture
def mep(admin: User) -> Iterator[FakeMep]:
    mep = FakeMep(admin).online()
    yield mep
    if mep.hold is not None:
        mep.hold.set()
    mep.stop()


def double(x: int) -> int:
    return 2 * x


@pytest.fixture(scope="module")
def function(harper: User) -> str:
    return harper.register(double)


def accepted(answer: requests.Response) -> list[str]:
    """The ids of the tasks of an accepted submission."""
    assert answer.status_code == 200, answer.text
    return [t for ids in answer.json()["tasks"].values() for t in ids]


def test_one_start_for_many_submissions(harper: User, mep: FakeMep, function: str) -> None:
    gate = threading.Event()
    mep.react = lambda _request: None if gate.wait(20) else "closed"
    tasks = {function: [payload(1)]}
    with ThreadPoolExecutor(12) as pool:
        answers = [pool.submit(harper.submit, mep, tasks) for _ in range(12)]
        other = pool.submit(harper.submit, mep, tasks, user_endpoint_config={"a": 1})
        gate.set()
        ids = [t for a in answers for t in accepted(a.result())]
        accepted(other.result())
    assert len(mep.requests) == 2
    assert len({r.name for r in mep.requests}) == 2
    poll(lambda: harper.finished(ids), "all results")


def test_the_id_is_stable_and_the_users_own(
    site: Site, harper: User, mep: FakeMep, function: str
) -> None:
    jessie = User(site, unique("jessie"))
    public = jessie.register(double, public=True)
    tasks = {public: [payload(1)]}
    for config in ({"a": 1, "b": [1.5]}, {"b": [1.5], "a": 1}):
        accepted(harper.submit(mep, {function: [payload(1)]}, user_endpoint_config=config))
    accepted(jessie.submit(mep, tasks, user_endpoint_config={"a": 1, "b": [1.5]}))
    accepted(harper.submit(mep, tasks, user_endpoint_config={"a": 1.0, "b": [1.5]}))
    names = [r.name for r in mep.requests]
    assert len(names) == len(set(names)) == 3


@pytest.mark.parametrize("goodbye", [True, False])
def test_a_user_endpoint_that_goes_is_started_again(
    harper: User, mep: FakeMep, function: str, goodbye: bool
) -> None:
    """With a goodbye, or killed, which the missing heartbeats tell."""
    mep.hold = threading.Event()
    mep.uep_period = 0.5
    ids = accepted(harper.submit(mep, {function: [payload(1), payload(2)]}))
    mep.ueps[0].stop(goodbye)
    poll(lambda: len(mep.requests) > 1, "a second start request")
    mep.hold.set()
    poll(lambda: harper.finished(ids), "the results of the second user endpoint")
    assert mep.requests[1].name == mep.requests[0].name
    assert mep.requests[1].user_opts == mep.requests[0].user_opts
    assert mep.requests[1].amqp_creds != mep.requests[0].amqp_creds


def test_R5_a_death_that_is_told_is_repaired_at_once(
    harper: User, mep: FakeMep, function: str
) -> None:
    mep.hold = threading.Event()
    ids = accepted(harper.submit(mep, {function: [payload(1)]}))
    mep.ueps[0].stop(goodbye=False)
    mep.notice(mep.requests[0].amqp_creds, "killed by signal 9")
    poll(lambda: len(mep.requests) > 1, "a second start request", 2)
    mep.hold.set()
    poll(lambda: harper.finished(ids), "the result")


def test_tasks_fail_when_nothing_helps(harper: User, mep: FakeMep, function: str) -> None:
    """Starts fail three times: the tasks get an error, the queue is empty, all goes on."""
    mep.hold = threading.Event()
    answer = harper.submit(mep, {function: [payload(1)]}, create_queue=True)
    ids = accepted(answer)
    mep.react = lambda _request: "no more cores"
    mep.ueps[0].stop()
    poll(lambda: harper.finished(ids, "failed"), "the error", 40)
    assert "no more cores" in harper.statuses(ids)[ids[0]]["exception"]
    assert len(mep.requests) == 4
    body = relayed(harper, answer.json()["task_group_id"])
    assert message.unpack_result(body).error_code == "ENDPOINT_LOST"
    mep.react = lambda _request: None
    mep.hold.set()
    again = accepted(harper.submit(mep, {function: [payload(2)]}))
    poll(lambda: harper.finished(again), "a later task")
    assert mep.ueps[-1].done == again


def relayed(user: User, group: str) -> bytes:
    """The first message in the group's queue, read with the SDK's rights."""
    info = user.call("GET", "/v2/get_amqp_result_connection_url").json()
    connection = pika.BlockingConnection(pika.URLParameters(info["connection_url"]))
    try:
        channel = connection.channel()
        queue = info["queue_prefix"] + group
        body: bytes = poll(lambda: channel.basic_get(queue, auto_ack=True)[2], "a relayed result")
        return body
    finally:
        connection.close()


def test_a_silent_start_times_out(harper: User, mep: FakeMep, function: str) -> None:
    mep.react = lambda _request: ""  # neither a user endpoint nor a notice
    answer = harper.submit(mep, {function: [payload(1)]})
    assert answer.status_code == 422
    assert "did not check in within 5 seconds" in answer.json()["message"]


def test_an_offline_endpoint_is_told_at_once(admin: User, harper: User, function: str) -> None:
    mep = FakeMep(admin).online()
    mep.stop()
    path = f"/v2/endpoints/{mep.id}/status"
    poll(lambda: admin.call("GET", path).json()["status"] == "offline", "endpoint offline")
    answer = harper.submit(mep, {function: [payload(1)]})
    assert answer.status_code == 422
    assert "is not online" in answer.json()["reason"]


def test_kill_9_of_the_gateway_loses_no_accepted_task(
    site: Site, harper: User, mep: FakeMep, function: str
) -> None:
    """Killed with tasks at the user endpoint, and again while results come."""
    mep.hold = threading.Event()
    ids: list[str] = []
    group = ""
    for number in range(5):
        more = {"task_group_id": group} if group else {}
        answer = harper.submit(
            mep, {function: [payload(number)] * 40}, create_queue=True, **more
        )
        group = answer.json()["task_group_id"]
        ids += accepted(answer)
    site.stop_gateway(signal.SIGKILL)
    site.start_gateway()
    mep.hold.set()
    poll(lambda: len(mep.ueps[0].done) > 20, "some results")
    site.stop_gateway(signal.SIGKILL)
    site.start_gateway()
    poll(lambda: harper.finished(ids), "all results", 60)
    assert len(mep.requests) == 1, "a living user endpoint is not started again"
    assert sorted(set(mep.ueps[0].done)) == sorted(ids)
    assert {message.unpack_result(b).task_id for b in drained(harper, group, len(ids))} == set(ids)


def drained(user: User, group: str, least: int) -> list[bytes]:
    info = user.call("GET", "/v2/get_amqp_result_connection_url").json()
    connection = pika.BlockingConnection(pika.URLParameters(info["connection_url"]))
    bodies: list[bytes] = []
    try:
        channel = connection.channel()

        def more() -> bool:
            body: Any = channel.basic_get(info["queue_prefix"] + group, auto_ack=True)[2]
            if body is not None:
                bodies.append(body)
            return body is None and len(bodies) >= least

        poll(more, f"{least} relayed results")
    finally:
        connection.close()
    return bodies


def test_A2_the_broker_goes_and_comes_back(
    site: Site, admin: User, harper: User, function: str
) -> None:
    mep = FakeMep(admin).online()
    accepted(harper.submit(mep, {function: [payload(1)]}))
    site.stop_broker()
    poll(lambda: not site.connected(), "the gateway sees the loss")
    count = admin.call("GET", f"/v2/endpoints/{mep.id}/status").json()["details"]["total_tasks"]
    answer = harper.submit(mep, {function: [payload(1)]})
    assert answer.status_code == 503 and int(answer.headers["Retry-After"]) > 0
    assert admin.call("POST", "/v3/endpoints", {"endpoint_name": "x"}).status_code == 503
    details = admin.call("GET", f"/v2/endpoints/{mep.id}/status").json()["details"]
    assert details["total_tasks"] == count, "nothing half written"
    site.start_broker()
    poll(site.connected, "the gateway is back")
    second = FakeMep(admin).online()
    ids = accepted(harper.submit(second, {function: [payload(1)]}))
    poll(lambda: harper.finished(ids), "a result after the restart")
    second.stop()


def test_G7_a_locked_store(site: Site, harper: User, mep: FakeMep, function: str) -> None:
    """Writes answer 503 while another process holds the lock, and recover by themselves."""
    accepted(harper.submit(mep, {function: [payload(1)]}))
    lock = sqlite3.connect(site.dir / "gateway.db", isolation_level=None)
    lock.execute("BEGIN IMMEDIATE")
    try:
        answer = harper.submit(mep, {function: [payload(1)]}, user_endpoint_config={"b": 2})
        assert answer.status_code == 503, answer.text
        assert answer.json()["code"] == "SERVICE_UNAVAILABLE"
        assert harper.call("GET", f"/v2/functions/{function}").status_code == 200
    finally:
        lock.execute("ROLLBACK")
        lock.close()
    ids = accepted(harper.submit(mep, {function: [payload(1)]}))
    poll(lambda: harper.finished(ids), "a result after the lock")


def test_G7_a_full_store(site: Site, harper: User, mep: FakeMep, function: str) -> None:
    """Writes answer 503, reads go on, nothing is half written; room again, all goes on."""
    (first,) = accepted(harper.submit(mep, {function: [payload(1)]}))
    poll(lambda: harper.finished([first]), "a result")
    path = f"/v2/endpoints/{mep.id}/status"
    total = harper.call("GET", path).json()["details"]["total_tasks"]
    used = os.stat(site.dir / "gateway.db-wal").st_size
    resource.prlimit(site.pid, resource.RLIMIT_FSIZE, (used, resource.RLIM_INFINITY))
    try:
        big = {function: [payload("x" * 400_000)] * 12}
        answer = harper.submit(mep, big)
        assert answer.status_code == 503, answer.text
        assert answer.json()["code"] == "SERVICE_UNAVAILABLE"
        assert harper.call("GET", f"/v2/functions/{function}").status_code == 200
        assert harper.call("GET", path).json()["details"]["total_tasks"] == total
    finally:
        infinity = (resource.RLIM_INFINITY, resource.RLIM_INFINITY)
        resource.prlimit(site.pid, resource.RLIMIT_FSIZE, infinity)
    ids = accepted(harper.submit(mep, {function: [payload(1)]}))
    poll(lambda: harper.finished(ids), "a result with room again")


def test_the_end_of_the_process(site: Site) -> None:
    """A second one at the same address says so; SIGTERM is an orderly end."""
    second = subprocess.run(
        [site.program, "serve", "-c", str(site.config)], capture_output=True, text=True, timeout=30
    )
    assert second.returncode == os.EX_UNAVAILABLE
    assert f"cannot serve at 127.0.0.1:{site.port}" in second.stderr
    assert site.stop_gateway() == 0
    site.start_gateway()
