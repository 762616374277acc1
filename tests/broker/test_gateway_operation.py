"""The gateway as those see it who run it: document, readiness, numbers, bounds, faults."""

from __future__ import annotations

import json
import statistics
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import psutil
import pytest
import requests
import schemathesis
from gateway_fixtures import FakeMep, Site, User, payload, poll, running_site, unique
from hypothesis import HealthCheck, given, settings
from rabbit import server_script
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from tests.conftest import lines_with, require
from tests.figures import FULL
from tests.postgres import Postgres, programs


@pytest.fixture(scope="module")
def postgres() -> Iterator[Postgres]:
    found = programs()
    require(found is not None, "postgresql, and root to start it")
    assert found is not None
    server = Postgres(found)
    try:
        server.start()
        yield server
    finally:
        server.remove()


@pytest.fixture(scope="module")
def site(postgres: Postgres) -> Iterator[Site]:
    require(server_script() is not None, "rabbitmq-server")
    database = postgres.create("operation")
    with running_site(start_timeout=5, max_waiting=8, database=database) as site:
        yield site


@pytest.fixture(scope="module")
def harper(site: Site) -> User:
    return User(site, unique("harper"))


@pytest.fixture
def mep(harper: User) -> Iterator[FakeMep]:
    mep = FakeMep(harper).online()
    yield mep
    mep.stop()


def double(x: int) -> int:
    return 2 * x


# --- the document -----------------------------------------------------------------------
CHECKED = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
]


def examine(operation: Any, headers: dict[str, str]) -> None:
    """Calls one operation in several ways. Raises what schemathesis has found."""

    @settings(
        max_examples=8,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(case=operation.as_strategy())
    def call(case: Any) -> None:
        case.call_and_validate(headers=headers, checks=CHECKED, timeout=20)

    call()


def test_schemathesis_finds_no_undocumented_answer(site: Site, harper: User) -> None:
    document = schemathesis.openapi.from_url(f"{site.url}/openapi.json")
    headers = {"Authorization": f"Bearer {harper.token}"}
    operations = [found.ok() for found in document.get_all_operations()]
    assert len(operations) > 20
    for operation in operations:
        examine(operation, headers)
    assert not lines_with("Traceback", site.log())


def test_every_route_tells_its_answers(site: Site) -> None:
    found = requests.get(f"{site.url}/openapi.json", timeout=10).json()
    for path, methods in found["paths"].items():
        for method, operation in methods.items():
            if "compute" not in operation.get("tags", []):
                continue
            answers = operation["responses"]
            content = answers["200"]["content"]["application/json"]["schema"]
            assert content != {}, (path, method)
            for status in ("400", "401", "403", "404", "413", "422", "429", "503"):
                ref = answers[status]["content"]["application/json"]["schema"]["$ref"]
                assert ref.endswith("/ErrorAnswer"), (path, method, status)
            assert (method in ("post", "put")) == ("requestBody" in operation) or "lock" in path


# --- readiness and numbers ----------------------------------------------------------------
def test_metrics_count_and_name_nobody(site: Site, harper: User, mep: FakeMep) -> None:
    function = harper.register(double)
    (task,) = harper.submit(mep, {function: [payload(1)]}).json()["tasks"][function]
    poll(lambda: harper.finished([task]), "a result")
    requests.get(f"{site.url}/no/such/{harper.id}", timeout=10)
    answer = requests.get(f"{site.url}/metrics", timeout=10)
    assert answer.headers["Content-Type"].startswith("text/plain")
    text = answer.text
    route = '"/v3/endpoints/{endpoint_id}/submit"'
    assert f'mepd_gateway_requests_total{{method="POST",route={route},status="200"}}' in text
    numbers = dict(
        line.rsplit(" ", 1) for line in text.splitlines() if line and not line.startswith("#")
    )
    assert float(numbers["mepd_gateway_tasks_accepted_total"]) >= 1
    assert float(numbers["mepd_gateway_results_stored_total"]) >= 1
    assert float(numbers["mepd_gateway_broker_connected"]) == 1
    assert float(numbers["mepd_gateway_online"]) >= 2
    assert harper.id not in text and task not in text and mep.id not in text


def test_G7_postgresql_goes_and_comes_back(
    site: Site, postgres: Postgres, harper: User, mep: FakeMep
) -> None:
    """503 while it is away, nothing half written, all goes on by itself; results that come
    meanwhile are kept."""
    function = harper.register(double)
    mep.hold = threading.Event()
    tasks = {function: [payload(i) for i in range(20)]}
    ids = harper.submit(mep, tasks).json()["tasks"][function]
    postgres.stop()
    mep.hold.set()
    try:
        answer = harper.submit(mep, tasks)
        assert answer.status_code == 503 and int(answer.headers["Retry-After"]) > 0
        assert answer.json()["code"] == "SERVICE_UNAVAILABLE"
        ready = requests.get(f"{site.url}/readyz", timeout=20)
        assert ready.status_code == 503
        assert ready.json() == {"status": "not ready", "store": False, "broker": True}
        assert requests.get(f"{site.url}/healthz", timeout=10).status_code == 200
    finally:
        postgres.start()
    poll(lambda: requests.get(f"{site.url}/readyz", timeout=20).status_code == 200, "ready")
    poll(lambda: harper.finished(ids), "the results that came meanwhile", 60)
    details = harper.call("GET", f"/v2/endpoints/{mep.id}/status").json()["details"]
    assert details["total_tasks"] == len(ids), "nothing half written"
    (late,) = harper.submit(mep, {function: [payload(1)]}).json()["tasks"][function]
    poll(lambda: harper.finished([late]), "a result afterwards")


# --- bounds -----------------------------------------------------------------------------
def test_submissions_that_wait_are_bounded(site: Site, harper: User, mep: FakeMep) -> None:
    """One person has a quarter of the places; the others find theirs."""
    jessie = User(site, unique("jessie"))
    mep.react = lambda _request: ""  # never checks in
    functions = {user.id: user.register(double) for user in (harper, jessie)}

    def submit(user: User, number: int) -> requests.Response:
        tasks = {functions[user.id]: [payload(1)]}
        return user.submit(mep, tasks, user_endpoint_config={"n": number})

    with ThreadPoolExecutor(8) as pool:
        crowd = [pool.submit(submit, harper, n) for n in range(6)]
        other = pool.submit(submit, jessie, 0)
        statuses = sorted(answer.result().status_code for answer in crowd)
        assert statuses == [422, 422, 429, 429, 429, 429]
        refused = next(a.result() for a in crowd if a.result().status_code == 429)
        assert int(refused.headers["Retry-After"]) > 0
        assert refused.json()["code"] == "TOO_MANY_REQUESTS"
        assert other.result().status_code == 422


@pytest.mark.figures
def test_G5_one_identitys_haste_is_not_the_others(postgres: Postgres) -> None:
    database = postgres.create("rates")
    with running_site(database=database, requests_per_second=20, requests_burst=40) as site:
        hasty, calm = User(site, unique("hasty")), User(site, unique("calm"))

        def p95() -> float:
            times = []
            for _ in range(30):
                started = time.monotonic()
                assert calm.call("GET", "/v2/endpoints").status_code == 200
                times.append(time.monotonic() - started)
                time.sleep(0.06)
            return statistics.quantiles(times, n=20)[-1]

        alone = p95()
        end = threading.Event()
        seen: list[requests.Response] = []

        def hurry() -> None:
            while not end.is_set():
                seen.append(hasty.call("GET", "/v2/endpoints"))
                time.sleep(0.005)

        crowd = [threading.Thread(target=hurry) for _ in range(3)]
        for one in crowd:
            one.start()
        try:
            beside = p95()
        finally:
            end.set()
            for one in crowd:
                one.join()
        refused = [a for a in seen if a.status_code == 429]
        assert len(refused) > len(seen) / 4 and {a.status_code for a in seen} == {200, 429}
        assert int(refused[0].headers["Retry-After"]) >= 1
        if FULL:  # by itself on a machine; other tests' processes are no part of the promise
            assert beside < 4 * alone + 0.1, "the client's own threads are in this, too"


def test_large_payloads_are_refused_clearly(postgres: Postgres) -> None:
    database = postgres.create("sizes")
    with running_site(database=database, payload_max=10_000, bodies_max=11_000_000) as site:
        user = User(site, unique("harper"))
        mep = FakeMep(user).online()
        function = user.register(double)
        answer = user.submit(mep, {function: ["x" * 10_001]})
        assert answer.status_code == 413 and answer.json()["code"] == "PAYLOAD_TOO_LARGE"
        assert "10001" in answer.json()["message"] and "10000" in answer.json()["message"]
        assert user.submit(mep, {function: [payload(1)]}).status_code == 200
        big = json.dumps({"task_ids": ["x" * 9_000_000]}).encode()
        head = {"Authorization": f"Bearer {user.token}", "Content-Type": "application/json"}
        gateway = psutil.Process(site.pid)
        before = gateway.memory_info().rss

        def send(_number: int) -> int:
            url = f"{site.url}/v2/batch_status"
            try:
                return requests.post(url, data=big, headers=head, timeout=30).status_code
            except requests.ConnectionError:  # refused while it was sent
                return 429

        with ThreadPoolExecutor(6) as pool:
            statuses = set(pool.map(send, range(12)))
        assert statuses <= {422, 429} and 422 in statuses
        assert gateway.memory_info().rss - before < 100_000_000
        poll(lambda: send(0) == 422, "room again")
        mep.stop()


# --- stopping from afar -----------------------------------------------------------------
def test_a_locked_endpoint(site: Site, harper: User) -> None:
    mep = FakeMep(harper).online()
    function = harper.register(double)
    other = User(site, unique("other"))
    assert other.call("POST", f"/v3/endpoints/{mep.id}/lock").status_code == 403
    answer = harper.call("POST", f"/v3/endpoints/{mep.id}/lock")
    assert answer.status_code == 200 and answer.json()["locked_for"] > 0
    path = f"/v2/endpoints/{mep.id}/status"
    poll(lambda: harper.call("GET", path).json()["status"] == "offline", "offline")
    mep.join(10)
    assert not mep.is_alive(), "its consumer was ended"
    body = {"endpoint_name": "fake", "multi_user": True}
    again = harper.call("PUT", f"/v3/endpoints/{mep.id}", body)
    assert again.status_code == 423 and int(again.headers["Retry-After"]) > 0
    refused = harper.submit(mep, {function: [payload(1)]})
    assert refused.status_code == 423 and refused.json()["code"] == "ENDPOINT_LOCKED"
