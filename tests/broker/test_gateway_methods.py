"""Every method of Client and Executor of the stock SDK, by a multi-user endpoint."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import sqlite3
import subprocess
import sys
import textwrap
import threading
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import pika
import pytest
from gateway_fixtures import FakeMep, Site, User, poll, running_site, unique
from globus_compute_sdk import Client, Executor, ShellFunction
from globus_compute_sdk.errors import TaskExecutionFailed, TaskPending
from globus_compute_sdk.sdk.executor import _RESULT_WATCHERS
from globus_compute_sdk.serialize import ComputeSerializer, JSONData
from globus_sdk import GlobusAPIError
from rabbit import server_script

from mepd import sdk
from mepd.gateway import names
from mepd.uep import failures
from tests.conftest import require


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    require(server_script() is not None, "rabbitmq-server")
    with running_site(start_timeout=10) as site:
        yield site
        for watcher in list(_RESULT_WATCHERS.values()):
            watcher.shutdown()


@pytest.fixture(scope="module")
def harper(site: Site) -> User:
    return User(site, unique("harper"))


@pytest.fixture(scope="module")
def mep(site: Site) -> Iterator[FakeMep]:
    mep = FakeMep(User(site, unique("admin"))).online()
    yield mep
    mep.stop()


@pytest.fixture(scope="module")
def client(site: Site, harper: User) -> Client:
    made: Client = sdk.client(site.url, token=harper.token)
    return made


def double(x: int) -> int:
    return 2 * x


def add(x: int, y: int) -> int:
    return x + y


def fails() -> None:
    raise ValueError("on purpose")


def refusal(call: object, *args: object) -> tuple[int, str]:
    with pytest.raises(GlobusAPIError) as raised:
        call(*args)  # type: ignore[operator]
    return raised.value.http_status, str(raised.value.code)


# --- Client ---------------------------------------------------------------------------
def test_version_check(client: Client) -> None:
    client.version_check()
    client.version_check(endpoint_version="4.19.0")


def test_register_get_and_delete_a_function(client: Client) -> None:
    function = client.register_function(double, description="twice", public=True)
    shown = client.get_function(function)
    assert (shown["function_name"], shown["description"]) == ("double", "twice")
    client.delete_function(function)
    assert refusal(client.get_function, function) == (404, "FUNCTION_NOT_FOUND")
    assert refusal(client.delete_function, function) == (404, "FUNCTION_NOT_FOUND")


def test_run_and_the_tasks_state(client: Client, mep: FakeMep) -> None:
    mep.hold = threading.Event()
    config = {"held": True}
    function = client.register_function(double)
    batch = client.create_batch(user_endpoint_config=config)
    batch.add(function, args=(21,))
    (task,) = client.batch_run(mep.id, batch)["tasks"][function]
    try:
        assert client.get_task(task)["pending"] is True
        with pytest.raises(TaskPending):
            client.get_result(task)
    finally:
        mep.hold.set()
        mep.hold = None
    poll(lambda: not client.get_task(task)["pending"], "the result")
    assert client.get_result(task) == 42
    other = client.run(4, endpoint_id=mep.id, function_id=function)
    poll(lambda: not client.get_task(other)["pending"], "the result")
    assert client.get_result(other) == 8


def test_a_batch_of_several_functions(client: Client, mep: FakeMep) -> None:
    first, second = client.register_function(add), client.register_function(fails)
    batch = client.create_batch()
    for number in range(3):
        batch.add(first, args=(number,), kwargs={"y": 1})
    batch.add(second)
    answer = client.batch_run(mep.id, batch)
    ids = [t for found in answer["tasks"].values() for t in found]
    (failed,) = answer["tasks"][second]
    wanted = [t for t in ids if t != failed]  # the SDK leaves failed ones out

    def finished() -> bool:
        found = client.get_batch_result(ids)
        return set(found) == set(wanted) and not any(t["pending"] for t in found.values())

    poll(finished, "results")
    results = client.get_batch_result(ids)
    assert [results[t]["result"] for t in answer["tasks"][first]] == [1, 2, 3]
    with pytest.raises(TaskExecutionFailed, match="on purpose"):
        client.get_result(failed)


def test_source_code(client: Client, mep: FakeMep) -> None:
    function = client.register_source_code("def triple(x):\n    return 3 * x\n", "triple")
    task = client.run(4, endpoint_id=mep.id, function_id=function)
    poll(lambda: not client.get_task(task)["pending"], "the result")
    assert client.get_result(task) == 12


def test_endpoints_by_role_status_metadata(client: Client, harper: User, mep: FakeMep) -> None:
    made = client.register_endpoint("lab", None, metadata={"hostname": "login01"}, multi_user=True)
    own = made["endpoint_id"]
    assert made["command_queue_info"]["connection_url"].startswith("amqp")
    assert own in [e["uuid"] for e in client.get_endpoints()]
    assert own in [e["uuid"] for e in client.get_endpoints(role="owner")]
    assert mep.id not in [e["uuid"] for e in client.get_endpoints(role="owner")]
    assert own in [e["uuid"] for e in client.get_endpoints(role="any")]
    assert refusal(client.get_endpoints, "none")[0] == 422
    assert client.get_endpoint_metadata(own)["metadata"]["hostname"] == "login01"
    assert client.get_endpoint_metadata(own)["owner"] == harper.id
    assert client.get_endpoint_status(own)["status"] == "offline"
    assert client.get_endpoint_status(mep.id)["status"] == "online"
    assert refusal(client.get_endpoint_status, str(uuid.uuid4())) == (404, "ENDPOINT_NOT_FOUND")


def test_allowed_functions(client: Client) -> None:
    function = client.register_function(double)
    made = client.register_endpoint("few", None, multi_user=True, allowed_functions=[function])
    answer = client.get_allowed_functions(made["endpoint_id"])
    assert answer["restricted"] is True and answer["functions"] == [function]


def test_stop_and_delete_an_endpoint(client: Client, harper: User) -> None:
    mep = FakeMep(harper).online()
    client.stop_endpoint(mep.id)
    poll(lambda: client.get_endpoint_status(mep.id)["status"] == "offline", "offline")
    client.delete_endpoint(mep.id)
    assert refusal(client.get_endpoint_metadata, mep.id) == (404, "ENDPOINT_NOT_FOUND")


def test_hardware_details(client: Client, mep: FakeMep) -> None:
    task = client.get_worker_hardware_details(mep.id)
    poll(lambda: not client.get_task(task)["pending"], "the report", 60)
    assert "CPU" in client.get_result(task)
    with Executor(mep.id, client=client) as executor:
        assert "CPU" in executor.get_worker_hardware_details()


def test_result_amqp_url(client: Client) -> None:
    answer = client.get_result_amqp_url()
    assert answer["connection_url"].startswith("amqp") and answer["queue_prefix"]


# --- Executor -------------------------------------------------------------------------
def test_submit_map_and_registered_functions(client: Client, mep: FakeMep) -> None:
    with Executor(mep.id, client=client) as executor:
        assert executor.submit(double, 2).result(60) == 4
        with pytest.raises(NotImplementedError):  # as the SDK documents it
            executor.map(add, [1, 2, 3], [4, 5, 6])
        function = executor.register_function(add)
        future = executor.submit_to_registered_function(function, args=(5,), kwargs={"y": 5})
        assert future.result(60) == 10 and uuid.UUID(str(future.task_id))
        source = executor.register_source_code("def half(x):\n    return x // 2\n", "half")
        assert executor.submit_to_registered_function(source, args=(8,)).result(60) == 4
        with pytest.raises(TaskExecutionFailed, match="on purpose"):
            executor.submit(fails).result(60)


def test_a_shell_function(
    client: Client, mep: FakeMep, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # the fake endpoint runs it here, with files for its output
    with Executor(mep.id, client=client) as executor:
        done = executor.submit(ShellFunction("echo {word}; exit 3"), word="hello").result(60)
    assert done.returncode == 3 and done.stdout == "hello\n"


def test_what_travels_with_a_task(client: Client, mep: FakeMep) -> None:
    """Serializer, result serializers, resource specification, configuration."""
    with Executor(mep.id, client=client, user_endpoint_config={"travels": 1}) as executor:
        executor.serializer = ComputeSerializer(strategy_data=JSONData())
        executor.resource_specification = {"num_nodes": 2}
        executor.result_serializers = [JSONData()]
        assert executor.submit(double, 3).result(60) == 6
    headers = mep.ueps[-1].seen[-1]
    assert "num_nodes" in headers["resource_specification"]
    assert "JSONData" in str(headers["result_serializers"])
    assert mep.requests[-1].user_opts == {"travels": 1}


def test_two_executors_at_once(client: Client, mep: FakeMep) -> None:
    with Executor(mep.id, client=client) as one, Executor(mep.id, client=client) as two:
        two.task_group_id = uuid.uuid4()
        futures = [(e.submit(double, i), 2 * i) for i in range(10) for e in (one, two)]
        assert all(f.result(60) == wanted for f, wanted in futures)


RELOAD = """
    import sys
    from globus_compute_sdk import Executor
    from mepd import sdk
    client = sdk.client(sys.argv[1], token=sys.stdin.readline().strip())
    with Executor(client=client, task_group_id=sys.argv[2]) as executor:
        print(sorted(f.result(60) for f in executor.reload_tasks()))
"""


def test_a_task_group_shared_with_another_process(
    site: Site, harper: User, client: Client, mep: FakeMep
) -> None:
    with Executor(mep.id, client=client, task_group_id=uuid.uuid4()) as executor:
        futures = [executor.submit(double, i) for i in range(5)]
        assert sorted(f.result(60) for f in futures) == [0, 2, 4, 6, 8]
        group = str(executor.task_group_id)
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(RELOAD), site.url, group],
        input=harper.token + "\n", capture_output=True, text=True, timeout=90,
    )  # fmt: skip
    assert done.stdout == "[0, 2, 4, 6, 8]\n", done.stderr


def test_errors_are_the_sdks(client: Client, mep: FakeMep) -> None:
    with Executor(str(uuid.uuid4()), client=client) as executor:
        future = executor.submit(double, 1)
        with pytest.raises(GlobusAPIError) as raised:
            future.result(60)
    assert raised.value.http_status == 404
    assert refusal(client.get_task, str(uuid.uuid4())) == (404, "TASK_NOT_FOUND")


# --- the gateway dies -------------------------------------------------------------------
def test_kill_9_at_random_moments_under_a_stock_executor(
    site: Site, client: Client, mep: FakeMep, tmp_path: Path
) -> None:
    """No accepted task is lost, and each future gets one result, its own."""
    seed = int(os.environ.get("MEPD_TEST_SEED", "4"))
    moments = random.Random(seed)
    seen: list[int] = []
    with Executor(mep.id, client=client, batch_size=10) as executor:
        assert executor.submit(double, 0).result(60) == 0
        futures = []
        for round_ in range(4):
            for number in range(30):
                future = executor.submit(double, 100 * round_ + number)
                future.add_done_callback(lambda f: seen.append(id(f)))
                futures.append((future, 2 * (100 * round_ + number)))
            time.sleep(moments.uniform(0.05, 1.0))
            site.stop_gateway(signal.SIGKILL)
            site.start_gateway()
        wrong = [(f, wanted) for f, wanted in futures if f.result(120) != wanted]
    assert wrong == [] and len(seen) == len(set(seen)) == 120, f"seed {seed}"


# --- one result for a task --------------------------------------------------------------
def test_a_user_endpoint_that_says_otherwise_after_its_death(
    site: Site, client: Client, mep: FakeMep
) -> None:
    """It died after its result was out, and its next life tells that the task was lost."""
    seen: list[str] = []
    with Executor(mep.id, client=client) as executor:
        future = executor.submit(double, 4)
        future.add_done_callback(lambda _f: seen.append("done"))
        assert future.result(60) == 8
        task = str(future.task_id)
        lost = failures.error_result(task, failures.ENDPOINT_LOST, failures.LOST_TEXT)
        connection = pika.BlockingConnection(pika.URLParameters(site.admin_url()))
        connection.channel().basic_publish(names.RESULTS, mep.ueps[-1].id, lost)
        connection.close()
        assert executor.submit(double, 5).result(60) == 10  # after those
        assert future.result() == 8 and seen == ["done"]
    assert client.get_result(task) == 8


def test_a_gateway_that_died_before_it_noted_the_confirm(
    site: Site, client: Client, mep: FakeMep
) -> None:
    """It sends the result once more; the future is done once, and others are not disturbed."""
    seen: list[str] = []
    with Executor(mep.id, client=client) as executor:
        future = executor.submit(double, 4)
        future.add_done_callback(lambda _f: seen.append("done"))
        assert future.result(60) == 8
        site.stop_gateway(signal.SIGKILL)
        task = (str(future.task_id),)
        with contextlib.closing(sqlite3.connect(site.dir / "gateway.db", timeout=30)) as db:
            with db:
                forgotten = db.execute("update tasks set relayed = 0 where id = ?", task)
                assert forgotten.rowcount == 1
            site.start_gateway()
            query = "select relayed from tasks where id = ?"
            poll(lambda: db.execute(query, task).fetchone()[0], "it to be sent again")
        assert executor.submit(double, 5).result(60) == 10
        time.sleep(0.5)
        assert future.result() == 8 and seen == ["done"]


# --- cancellation ----------------------------------------------------------------------
def test_a_cancelled_future(client: Client, mep: FakeMep) -> None:
    """The SDK forgets it by itself, at any time before its result; others are not touched."""
    config = {"cancelled": 1}
    with Executor(mep.id, client=client, user_endpoint_config=config) as executor:
        assert executor.submit(double, 1).result(60) == 2
        mep.ueps[-1].hold = hold = threading.Event()
        first, early = executor.submit(double, 2), executor.submit(double, 3)
        assert early.cancel()  # before it has left
        later = executor.submit(double, 4)
        poll(lambda: later.task_id, "it to be accepted")
        assert later.cancel() and later.cancelled() and not first.done()
        hold.set()
        assert first.result(60) == 4
        assert executor.submit(double, 5).result(60) == 10
    assert early.cancelled() and later.cancelled()
