"""The gateway against clients, user endpoints and endpoints that mean it harm."""

from __future__ import annotations

import copy
import json
import select
import socket
import sqlite3
import threading
import time
import uuid
from collections.abc import Iterator
from typing import Any

import pika
import psutil
import pytest
import requests
from gateway_fixtures import (
    FakeMep,
    FakeUep,
    Site,
    User,
    payload,
    poll,
    running_site,
    unique,
)
from rabbit import server_script

from tests.conftest import lines_with, require

NIL = "00000000-0000-4000-8000-000000000000"
MIB = 1024 * 1024
JSON = {"Content-Type": "application/json"}


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    require(server_script() is not None, "rabbitmq-server")
    with running_site(start_timeout=10, body_timeout=5) as site:
        yield site


@pytest.fixture(scope="module")
def harper(site: Site) -> User:
    return User(site, unique("harper"))


@pytest.fixture(scope="module")
def jessie(site: Site) -> User:
    return User(site, unique("jessie"))


@pytest.fixture
def mep(site: Site) -> Iterator[FakeMep]:
    mep = FakeMep(User(site, unique("admin"))).online()
    yield mep
    mep.stop()


def double(x: int) -> int:
    return 2 * x


def rss(site: Site) -> int:
    return int(psutil.Process(site.pid).memory_info().rss)


class Peak(threading.Thread):
    """How much memory the gateway takes while something is done, over what it had before."""

    def __init__(self, site: Site) -> None:
        super().__init__(daemon=True)
        self.site = site
        self.before = rss(site)
        self.most = 0
        self._end = threading.Event()

    def __enter__(self) -> Peak:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self.join()

    def run(self) -> None:
        while not self._end.wait(0.01):
            self.most = max(self.most, rss(self.site) - self.before)


# --- bodies ---------------------------------------------------------------------------
def _in_tasks(item: bytes) -> bytes:
    head = b'{"tasks": {"' + NIL.encode() + b'": ['
    return head + item * ((10 * MIB - 200) // len(item)) + b"1]}}"


@pytest.mark.parametrize("item", [b"[],", b"{},", b"1,", b'"ab",', b'{"a":[]},', b'"\\n",'])
def test_G4_many_small_values_take_no_memory(site: Site, harper: User, item: bytes) -> None:
    """Ten MiB of them would be a gigabyte once parsed, and seconds of everybody's time."""
    url = f"{site.url}/v3/endpoints/{NIL}/submit"
    body = _in_tasks(item)
    for head in ({}, {"Authorization": f"Bearer {harper.token}"}):
        with Peak(site) as peak:
            answer = requests.post(url, data=body, headers={**JSON, **head}, timeout=60)
        assert answer.status_code == (400 if head else 401), answer.text
        assert peak.most < 50 * MIB
    assert "too many values" in answer.json()["reason"]


def test_G4_a_long_key_over_many_values_takes_no_memory(site: Site, harper: User) -> None:
    """Where each of them stands is not written down unless it is at fault."""
    value = {"k" * (4 * MIB): [[1] * 100] * 300}
    with Peak(site) as peak:
        answer = harper.call("POST", f"/v3/endpoints/{NIL}/submit", {"tasks": value})
    assert answer.status_code == 422 and len(answer.text) < 2000
    assert peak.most < 80 * MIB


def test_G4_endpoints_of_one_owner_are_listed_in_bounded_memory(site: Site) -> None:
    """Everybody may ask for all that are public."""
    hoarder = User(site, unique("hoarder"))
    body = {"endpoint_name": "e", "public": True, "metadata": {"m": "x" * (5 * MIB)}}
    kept = [hoarder.call("POST", "/v3/endpoints", body) for _ in range(8)]
    assert {answer.status_code for answer in kept} == {200, 413}
    assert "at most" in kept[-1].json()["reason"]
    with Peak(site) as peak:
        listed = hoarder.call("GET", "/v2/endpoints")
    assert 0 < len(listed.content) < 17 * MIB and peak.most < 150 * MIB
    for endpoint in listed.json():
        assert hoarder.call("DELETE", f"/v2/endpoints/{endpoint['uuid']}").status_code == 200


def test_G4_only_who_has_a_token_may_send_much(site: Site, harper: User) -> None:
    url = f"{site.url}/v3/functions"
    small = {"function_name": "f", "function_code": "x" * 1000}
    large = {"function_name": "f", "function_code": "x" * 200_000}
    for value in (None, "", "Bearer", "Bearer x", f"Basic {harper.token}", "Bearer \xff"):
        head = {} if value is None else {"Authorization": value}
        for body in (small, large):
            answer = requests.post(url, json=body, headers=head, timeout=20)
            assert answer.status_code == 401 and answer.json()["code"], (value, answer.text)
    assert harper.call("POST", "/v3/functions", large).status_code == 200


def test_G4_one_identitys_bodies_leave_room_for_the_others() -> None:
    """Bodies that are held back are at most a quarter of what all may hold."""
    with running_site(bodies_max=8 * MIB, body_max=2 * MIB, body_timeout=60) as site:
        greedy, other = User(site, unique("greedy")), User(site, unique("other"))
        streams = []
        for _ in range(8):
            stream = socket.create_connection(("127.0.0.1", site.port), 20)
            stream.sendall(
                b"POST /v3/functions HTTP/1.1\r\nHost: x\r\nContent-Length: 1900000\r\n"
                b"Authorization: Bearer %s\r\n\r\n" % greedy.token.encode() + b" " * 1_800_000
            )
            streams.append(stream)
        poll(lambda: len(select.select(streams, [], [], 0)[0]) >= 6, "most are refused")
        body = {"function_name": "f", "function_code": "x" * 1_500_000}
        assert other.call("POST", "/v3/functions", body).status_code == 200
        for stream in streams:
            stream.close()


HOSTILE: list[Any] = [
    None,
    True,
    0,
    -1,
    1.5,
    1e308,
    2**63,
    10**400,
    float("inf"),
    "",
    "\x00",
    "\ud800",
    "x" * 70_000,
    "é\u2028\u202e",
    "\r\nX: y\x1b[31m",
    "'; DROP TABLE tasks; --",
    "%s%n{0}{{7*7}}",
    "../../etc/passwd",
    NIL,
    [],
    [[]],
    [None] * 1000,
    {},
    {"\ud800": 1},
    {"\ud800": [2**64]},
    {"\x00": [1e308 * 10]},
    {"__proto__": {"a": "b"}},
    {"a" * 300: {"b": [{}]}},
]


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    yield path
    if isinstance(value, dict):
        for key in value:
            yield from places(value[key], (*path, key))
    elif isinstance(value, list):
        for i, item in enumerate(value):
            yield from places(item, (*path, i))


def put(value: Any, path: tuple[Any, ...], new: Any) -> Any:
    """A copy with another value at a place; ``...`` takes it away."""
    if not path:
        return new
    changed = copy.deepcopy(value)
    node = changed
    for step in path[:-1]:
        node = node[step]
    if new is ...:
        del node[path[-1]]
    else:
        node[path[-1]] = new
    return changed


def mutants(good: Any) -> Iterator[str]:
    """The JSON texts of each hostile value at each place, of each place away, and twice."""
    for path in places(good):
        for value in HOSTILE:
            yield json.dumps(put(good, path, value))
        if path:
            yield json.dumps(put(good, path, ...))
    if isinstance(good, dict):
        for key, value in good.items():
            yield json.dumps(good)[:-1] + f", {json.dumps(key)}: {json.dumps([value])}}}"
    yield json.dumps(good)[:-1]
    yield json.dumps(good) * 2


ENDPOINT = {
    "endpoint_name": "e",
    "display_name": "E",
    "multi_user": True,
    "public": False,
    "metadata": {"a": [1]},
    "allowed_functions": [NIL],
    "admins": [NIL],
    "authentication_policy": None,
    "high_assurance": False,
}
SUBMISSION = {
    "tasks": {NIL: ["x"]},
    "create_queue": False,
    "task_group_id": NIL,
    "user_endpoint_config": {"a": {"b": [1]}},
    "user_runtime": {"python": {"version": "3"}},
    "resource_specification": {"num_nodes": 1},
    "result_serializers": ["a.b"],
}
POLICY = {
    "project_id": NIL,
    "display_name": "P",
    "description": "d",
    "authentication_assurance_timeout": 5,
    "required_mfa": False,
    "domain_constraints_include": ["*.example.org"],
    "domain_constraints_exclude": None,
    "high_assurance": False,
}
PROJECT = {"display_name": "P", "contact_email": "a@b", "admin_ids": None}
FUNCTION = {
    "function_name": "f",
    "function_code": "x",
    "serialized": True,
    "description": "d",
    "meta": {"a": {}},
    "public": False,
}
BODIES: list[tuple[str, str, Any]] = [
    ("POST", "/v3/functions", FUNCTION),
    ("POST", "/v3/endpoints", ENDPOINT),
    ("PUT", "/v3/endpoints/{endpoint}", ENDPOINT),
    ("POST", "/v3/endpoints/{endpoint}/submit", SUBMISSION),
    ("POST", "/v2/batch_status", {"task_ids": [NIL]}),
    ("POST", "/v2/api/projects", {"project": PROJECT}),
    ("POST", "/v2/api/policies", {"policy": POLICY}),
    ("PUT", f"/v2/api/projects/{NIL}", {"project": PROJECT}),
    ("PUT", f"/v2/api/policies/{NIL}", {"policy": POLICY}),
]


@pytest.mark.parametrize(("method", "path", "good"), BODIES)
def test_G4_each_hostile_value_at_each_place(
    site: Site, method: str, path: str, good: Any
) -> None:
    """Answered, without a 5xx; a refusal is JSON and tells where."""
    who = User(site, unique("fuzzer"))
    scope = "urn:globus:auth:scope:auth.globus.org:manage_projects"
    wanted = ("--scope", scope) if "/api/" in path else ()
    token = site.admin("token", "add", *wanted, who.username)["token"]
    endpoint = who.call("POST", "/v3/endpoints", {"endpoint_name": "e"}).json()["endpoint_id"]
    url = site.url + path.format(endpoint=endpoint)
    session = requests.Session()
    session.headers.update({**JSON, "Authorization": f"Bearer {token}"})
    for text in mutants(good):
        answer = session.request(method, url, data=text.encode(), timeout=30)
        assert answer.status_code < 500, (text[:300], answer.text)
        body = answer.json()
        if answer.status_code in (400, 422):
            assert body["code"] and body["http_status_code"] == answer.status_code
            assert "error parsing the body" not in body["reason"], text[:200]
        if answer.status_code == 422:
            assert "\ud800" not in body["reason"] and len(answer.text) < 4000
    assert site.connected() and not lines_with("Traceback", site.log())


def test_G4_each_hostile_value_in_each_form(site: Site, harper: User) -> None:
    """The token routes: errors of RFC 6749, or of this service."""
    auth = {"client_id": harper.client_id, "client_secret": harper.client_secret}
    forms = [
        ("token", {"grant_type": "client_credentials", "scope": "openid", **auth}),
        ("token", {"grant_type": "refresh_token", "refresh_token": "x", **auth}),
        (
            "token",
            {
                "grant_type": "authorization_code",
                "code": "x",
                "redirect_uri": "https://a/",
                "code_verifier": "v" * 43,
                **auth,
            },
        ),
        ("token/introspect", {"token": "x", "include": "session_info", **auth}),
        ("token/revoke", {"token": "x", **auth}),
    ]
    values = [v for v in HOSTILE if isinstance(v, str) and v != "\ud800"] + ["\x00x", "%ed%a0%80"]
    for route, form in forms:
        for key in form:
            for value in values:
                data = {**form, key: value}
                answer = requests.post(f"{site.url}/v2/oauth2/{route}", data=data, timeout=20)
                assert answer.status_code < 500, (route, key, value[:50], answer.text)
                assert isinstance(answer.json(), dict)
    assert not lines_with("Traceback", site.log())


# --- connections ----------------------------------------------------------------------
def exchange(site: Site, data: bytes) -> bytes:
    """All that comes back for some bytes."""
    with socket.create_connection(("127.0.0.1", site.port), 30) as stream:
        stream.sendall(data)
        answer = b""
        while part := stream.recv(65536):
            answer += part
        return answer


POST = b"POST /v3/functions HTTP/1.1\r\nHost: x\r\n"
CHUNKED = POST + b"Transfer-Encoding: chunked\r\n"


@pytest.mark.parametrize(
    "request_",
    [
        POST + b"Content-Length: 2\r\nContent-Length: 3\r\n\r\n{}x",
        POST + b"Content-Length: -1\r\n\r\n",
        POST + b"Content-Length: +2\r\n\r\n{}",
        POST + b"Content-Length: 0x2\r\n\r\n{}",
        CHUNKED + b"Content-Length: 2\r\n\r\n0\r\n\r\n",
        CHUNKED + b"Content-Length: 50\r\n\r\n0\r\n\r\nGET /metrics HTTP/1.1\r\nHost: x\r\n\r\n",
        POST + b"Transfer-Encoding: gzip, chunked\r\n\r\n",
        POST + b"Transfer-Encoding: chunked, identity\r\n\r\n",
        CHUNKED + b"\r\nzz\r\n",
        CHUNKED + b"\r\n-1\r\n",
        b"GET /v2/version HTTP/1.1\r\nHost: x\r\na: b\0c\r\n\r\n",
        b"GET /v2/version HTTP/1.1\r\nHost: x\r\na: " + b"b" * 300_000,
        b"GET /v2/version HTTP/1.1\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(100),
        b"x\r\n\r\n",
    ],
)
def test_requests_of_two_meanings_are_refused(site: Site, request_: bytes) -> None:
    """One answer, 400 in the form of all refusals, and the connection ends."""
    try:
        answer = exchange(site, request_)
    except ConnectionResetError:  # it was still being sent
        answer = b""
    assert not lines_with("Traceback", site.log())
    if answer or len(request_) < 10_000:
        assert answer.startswith(b"HTTP/1.1 400 ") and answer.count(b"HTTP/1.1") == 1
        assert b'"REQUEST_MALFORMED"' in answer


def test_odd_names_of_the_host(site: Site, harper: User) -> None:
    for host in (b"[", b"a?b#c", b"a:99999999", b"\xff\xfe", b"]:[", b""):
        for path in (b"/v2/oauth2/authorize?client_id=x", b"/", b"/v2/web/login", b"/metrics"):
            head = b"GET " + path + b" HTTP/1.1\r\nHost: " + host
            answer = exchange(site, head + b"\r\nOrigin: http://[\r\nConnection: close\r\n\r\n")
            assert int(answer.split()[1]) < 500, (host, path, answer[:300])
    assert not lines_with("Traceback", site.log())


def test_methods_make_no_series(site: Site) -> None:
    for number in range(20):
        answer = requests.request(f"X{number}", f"{site.url}/v2/version", timeout=10)
        assert answer.status_code == 405
    page = requests.get(f"{site.url}/metrics", timeout=10).text
    assert 'method="X' not in page and 'method="other",route="/v2/version"' in page


def test_idle_connections_shut_nobody_out() -> None:
    """More of them than there are descriptors: the oldest give way."""
    with running_site() as site:
        site.stop_gateway()
        program = site.dir / "few-files"
        program.write_text(f'#!/bin/sh\nulimit -n 400\nexec {site.program} "$@"\n')
        program.chmod(0o700)
        site.program = str(program)
        site.start_gateway()
        streams = []
        for number in range(500):
            stream = socket.create_connection(("127.0.0.1", site.port), 10)
            if number % 2:
                stream.sendall(b"GET /v2/version HTTP/1.1\r\nHo")
            streams.append(stream)
        for _ in range(20):
            assert requests.get(f"{site.url}/readyz", timeout=10).status_code == 200
        assert not lines_with("out of system resource", site.log())
        for stream in streams:
            stream.close()


def test_a_head_that_does_not_come_ends_the_connection(site: Site) -> None:
    with socket.create_connection(("127.0.0.1", site.port), 60) as stream:
        stream.sendall(b"GET /v2/version HTTP/1.1\r\n")
        assert stream.recv(100) == b""


def test_answers_that_nobody_reads_take_bounded_memory(site: Site, harper: User) -> None:
    body = {"function_name": "f", "function_code": "x" * (10 * MIB - 200)}
    function = harper.call("POST", "/v3/functions", body).json()["function_uuid"]
    ask = f"GET /v2/functions/{function} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer"
    streams = []
    with Peak(site) as peak:
        for _ in range(80):
            stream = socket.socket()
            stream.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            stream.connect(("127.0.0.1", site.port))
            stream.sendall(f"{ask} {harper.token}\r\n\r\n".encode())
            streams.append(stream)
        poll(lambda: harper.call("GET", "/v2/endpoints").status_code == 200, "still served")
        poll(lambda: all(_has_answer(stream) for stream in streams), "all answered", 60)
    assert peak.most < 450 * MIB, "the answers have 800 MiB"
    for stream in streams:
        stream.close()


def _has_answer(stream: socket.socket) -> bool:
    return bool(select.select([stream], [], [], 0)[0])


# --- submissions ----------------------------------------------------------------------
def test_headers_that_no_broker_takes(site: Site, harper: User, jessie: User, mep: FakeMep) -> None:
    """They end the connection to the broker, and the next, for everybody: so they are not
    accepted; and one that a store has already fails alone."""
    function = harper.register(double)
    for more in (
        {"resource_specification": {"x": "y" * 200_000}},
        {"resource_specification": {"x": "é" * 30_000}},
        {"result_serializers": ["\U0001f600" * 512] * 32},
    ):
        answer = harper.submit(mep, {function: [payload(1)]}, **more)
        assert answer.status_code == 422, answer.text
        assert next(iter(more)) in answer.json()["reason"]
    fits = {"resource_specification": {"x": "y" * 32_000}, "result_serializers": ["a.b" * 100] * 32}
    (task,) = harper.submit(mep, {function: [payload(2)]}, **fits).json()["tasks"][function]
    poll(lambda: harper.finished([task]), "the largest headers")
    site.stop_gateway()
    poison = str(uuid.uuid4())
    with sqlite3.connect(site.dir / "gateway.db") as db:
        row = dict(zip(*_row(db, task)))
        headers = {**json.loads(row["headers"]), "resource_specification": "y" * 200_000}
        row.update(id=poison, state=0, relayed=0, result=None, finished=None)
        row["headers"] = json.dumps(headers)
        marks = ",".join("?" * len(row))
        db.execute(f"INSERT INTO tasks ({','.join(row)}) VALUES ({marks})", list(row.values()))
    db.close()
    site.start_gateway()
    poll(lambda: harper.finished([poison], "failed"), "the poison fails")
    assert "cannot be sent" in harper.statuses([poison])[poison]["exception"]
    other = jessie.register(double)
    (task,) = jessie.submit(mep, {other: [payload(3)]}).json()["tasks"][other]
    poll(lambda: jessie.finished([task]), "another's task")
    assert not lines_with("FRAME_ERROR", site.log())


def _row(db: sqlite3.Connection, task: str) -> tuple[list[str], Any]:
    cursor = db.execute("SELECT * FROM tasks WHERE id = ?", (task,))
    return [column[0] for column in cursor.description], cursor.fetchone()


def test_a_small_submission_does_not_become_much(site: Site, harper: User, mep: FakeMep) -> None:
    """Each of its tasks carries its function."""
    code = "x" * (2 * MIB)
    made = harper.call("POST", "/v3/functions", {"function_name": "f", "function_code": code})
    function = made.json()["function_uuid"]
    answer = harper.submit(mep, {function: ["p"] * 20_000})
    assert answer.status_code == 413 and "in one submission" in answer.json()["reason"]
    mep.hold = threading.Event()
    with Peak(site) as peak:
        answer = harper.submit(mep, {function: ["p"] * 120})
        assert answer.status_code == 200
        tasks = answer.json()["tasks"][function]
        sent = {"waiting-for-nodes"}
        poll(lambda: {t["status"] for t in harper.statuses(tasks).values()} == sent, "all sent", 60)
    assert peak.most < 160 * MIB
    mep.hold.set()


# --- results and reports of a hostile user endpoint -----------------------------------
class Hostile:
    """The broker credentials of a user endpoint, in wrong hands."""

    def __init__(self, uep: FakeUep) -> None:
        self.creds = uep.creds
        self.id = uep.id
        url = uep.creds["result_queue_info"]["connection_url"]
        self.connection = pika.BlockingConnection(pika.URLParameters(url))
        self.channel = self.connection.channel()
        self.channel.confirm_delivery()

    def publish(self, info: str, body: bytes, **properties: Any) -> None:
        kwargs = dict(self.creds[info]["queue_publish_kwargs"])
        kwargs["properties"] = pika.BasicProperties(**properties)
        self.channel.basic_publish(body=body, **kwargs)

    def result(self, body: bytes, **properties: Any) -> None:
        self.publish("result_queue_info", body, **properties)

    def report(self, body: bytes, **properties: Any) -> None:
        self.publish("heartbeat_queue_info", body, **properties)


def packed(message_type: str, data: Any) -> bytes:
    return b"\x01" + json.dumps({"message_type": message_type, "data": data}).encode()


def result(task_id: Any, **more: Any) -> dict[str, Any]:
    return {
        "task_id": task_id,
        "data": "x",
        "details": {"os": "x"},
        "error_details": None,
        "task_statuses": [{"timestamp": 1, "state": "s", "actor": "a"}],
        **more,
    }


JUNK = [b"", b"\x01", b"\x02{}", b"\x01{", b"\x01" + b"[" * 200_000, b"\xff" * 100, b"\x80\x04p"]


@pytest.fixture
def hostile(harper: User, mep: FakeMep) -> Iterator[Hostile]:
    """Harper's user endpoint has run one task."""
    function = harper.register(double)
    tasks = harper.submit(mep, {function: [payload(1)]}).json()["tasks"][function]
    poll(lambda: harper.finished(tasks), "a task")
    made = Hostile(mep.ueps[0])
    yield made
    made.connection.close()


def _held_tasks(harper: User, mep: FakeMep, count: int) -> list[str]:
    """Tasks of Harper's that his user endpoint does not answer."""
    mep.ueps[0].hold = threading.Event()
    function = harper.register(double)
    answer = harper.submit(mep, {function: [payload(1)] * count})
    return list(answer.json()["tasks"][function])


def test_a_poisonous_result_costs_the_others_nothing(
    site: Site, harper: User, jessie: User, mep: FakeMep, hostile: Hostile
) -> None:
    """Others' results that come in the same batch are kept, and acknowledged when they are."""
    mep.hold = threading.Event()
    function = jessie.register(double)
    answer = jessie.submit(mep, {function: [payload(n) for n in range(20)]}, create_queue=True)
    tasks = answer.json()["tasks"][function]
    with sqlite3.connect(site.dir / "gateway.db", isolation_level=None) as db:
        db.execute("BEGIN IMMEDIATE")  # what comes meanwhile comes as one batch
        mep.hold.set()
        for bad in ("\ud800", "\x00", NIL + "\x00", "x" * 100_000):
            hostile.result(packed("result", result(bad)))
        poll(lambda: len(mep.ueps[-1].done) == len(tasks), "the results are sent")
        time.sleep(0.5)
        db.execute("ROLLBACK")
    db.close()
    poll(lambda: jessie.finished(tasks), "another's results")
    assert not lines_with("Traceback", site.log())


def test_hostile_values_in_a_result_end_their_task(
    site: Site, harper: User, mep: FakeMep, hostile: Hostile
) -> None:
    """Each of the user endpoint's own tasks ends, and can be asked for by all routes."""
    places_ = [p for p in places(result("x")) if p and p != ("task_id",)]
    cases = [(path, value) for path in places_ for value in HOSTILE]
    cases += [(("error_details",), {"code": v, "user_message": v}) for v in HOSTILE]
    tasks = _held_tasks(harper, mep, len(cases))
    for task, (path, value) in zip(tasks, cases, strict=True):
        hostile.result(packed("result", put(result(task), path, value)), headers={"a": ["b"]})
    for junk in JUNK:
        hostile.result(junk)
    last = _held_tasks(harper, mep, 1)
    hostile.result(packed("result", result(last[0])))
    poll(lambda: harper.finished(last), "a good result")
    found = harper.statuses(tasks)
    for task, (path, value) in zip(tasks, cases, strict=True):
        shown = harper.call("GET", f"/v2/tasks/{task}")
        assert shown.status_code == 200, (path, value, shown.text)
        assert shown.json() == found[task]
        if path == ("data",) and isinstance(value, str) and value in ("\x00", "\ud800"):
            assert "cannot be taken" in shown.json()["exception"]
    assert not lines_with("Traceback", site.log())


def test_results_too_large_are_errors_and_memory_is_bounded(
    site: Site, harper: User, mep: FakeMep, hostile: Hostile
) -> None:
    count = 40
    tasks = _held_tasks(harper, mep, count)
    large = packed("result", result(tasks[0], data="x" * (17 * MIB)))
    with Peak(site) as peak:
        hostile.result(large)
        for task in tasks[1:]:
            hostile.result(packed("result", result(task, data="y" * (12 * MIB))))

        def all_done() -> bool:
            shown = [harper.call("GET", f"/v2/tasks/{t}") for t in (tasks[0], tasks[-1])]
            return all("completion_t" in s.json() for s in shown)

        poll(all_done, "all stored", 120)
    assert peak.most < 400 * MIB, "39 results have 468 MiB"
    assert "cannot be taken" in harper.call("GET", f"/v2/tasks/{tasks[0]}").json()["exception"]
    poll(lambda: harper.call("GET", f"/v2/tasks/{tasks[1]}").json()["status"] == "success", "kept")
    many = harper.call("POST", "/v2/batch_status", {"task_ids": tasks})
    assert many.status_code == 413 and "at a time" in many.json()["reason"]
    few = harper.call("POST", "/v2/batch_status", {"task_ids": tasks[:2]})
    assert few.status_code == 200


def test_hostile_status_reports(
    site: Site, harper: User, jessie: User, mep: FakeMep, hostile: Hostile
) -> None:
    """Whatever a user endpoint reports is about itself, and ends nothing of the gateway's."""
    good = {
        "endpoint_id": hostile.id,
        "global_state": {"heartbeat_period": 30, "active": True, "error": "x"},
        "task_statuses": {},
    }
    for path in places(good):
        for value in HOSTILE:
            hostile.report(packed("ep_status_report", put(good, path, value)))
    for ident in (mep.id, NIL, "", "#", "*"):
        hostile.report(packed("ep_status_report", put(good, ("endpoint_id",), ident)))
    for junk in (*JUNK, b"\x01" + b'{"a":[' + b"[]," * 2_000_000 + b"1]}"):
        hostile.report(junk)
    assert harper.call("GET", f"/v2/endpoints/{mep.id}/status").json()["status"] == "online"
    function = jessie.register(double)
    tasks = jessie.submit(mep, {function: [payload(1)]}).json()["tasks"][function]
    poll(lambda: jessie.finished(tasks), "another's task")
    log = site.log()
    assert "Traceback" not in log and "connection to the broker closed" not in log
    assert log.count("dropping a status report of " + hostile.id) < 100
    assert "more such lines are counted only" in log


def test_a_reason_that_no_answer_can_hold(harper: User, mep: FakeMep) -> None:
    function = harper.register(double)
    for text in ("\ud800", "\x00", "x" * 100_000, "\r\n\x1b[31m"):
        mep.react = lambda _request, text=text: text  # type: ignore[misc]
        answer = harper.submit(mep, {function: [payload(1)]})
        assert answer.status_code == 422, answer.text
        assert answer.json()["code"] == "SEMANTICALLY_INVALID" and len(answer.text) < 20_000
    mep.react = lambda _request: None


def test_refused_submissions_leave_nothing(site: Site, harper: User, mep: FakeMep) -> None:
    """Neither a queue at the broker, nor, where nobody could start it, a user endpoint."""
    function = harper.register(double)
    groups = [str(uuid.uuid4()) for _ in range(2)]
    mep.react = lambda _request: "no"
    more = {"create_queue": True, "task_group_id": groups[0]}
    assert harper.submit(mep, {function: [payload(1)]}, **more).status_code == 422
    offline = FakeMep(User(site, unique("admin")))
    more["task_group_id"] = groups[1]
    answer = harper.submit(offline, {function: [payload(1)]}, **more)
    assert answer.status_code == 422 and "is not online" in answer.json()["reason"]
    for group in groups:
        connection = pika.BlockingConnection(pika.URLParameters(site.admin_url()))
        with pytest.raises(pika.exceptions.ChannelClosedByBroker, match="NOT_FOUND"):
            connection.channel().queue_declare(f"mepd.group.{group}", passive=True)
        connection.close()
    with sqlite3.connect(site.dir / "gateway.db") as db:
        (count,) = db.execute("SELECT count(*) FROM ueps WHERE endpoint_id = ?", (offline.id,))
    db.close()
    assert count == (0,)


def test_a_task_queue_that_was_deleted(site: Site, harper: User, mep: FakeMep) -> None:
    """Its user endpoint reports still, but takes no tasks: it is started anew."""
    function = harper.register(double)
    tasks = harper.submit(mep, {function: [payload(1)]}).json()["tasks"][function]
    poll(lambda: harper.finished(tasks), "a task")
    connection = pika.BlockingConnection(pika.URLParameters(site.admin_url()))
    connection.channel().queue_delete(f"mepd.tasks.{mep.ueps[0].id}")
    connection.close()

    def accepted() -> list[str]:
        answer = harper.submit(mep, {function: [payload(2)]})
        return list(answer.json()["tasks"][function]) if answer.status_code == 200 else []

    again = poll(accepted, "a submission")
    poll(lambda: harper.finished(again), "its task")
    assert len(mep.ueps) == 2


# --- rates ----------------------------------------------------------------------------
def test_G5_haste_at_the_token_routes() -> None:
    """They write, so they are counted as all else of an identity."""
    with running_site(requests_per_second=1, requests_burst=5) as site:
        greedy, other = User(site, unique("greedy")), User(site, unique("other"))
        for route, form in (
            ("token", {"grant_type": "client_credentials"}),
            ("token/introspect", {"token": "x"}),
            ("token/revoke", {"token": "x"}),
        ):
            url = f"{site.url}/v2/oauth2/{route}"

            def ask(user: User, url: str = url, form: dict[str, str] = form) -> requests.Response:
                auth = (user.client_id, user.client_secret)
                return requests.post(url, data=form, auth=auth, timeout=20)

            answers = [ask(greedy) for _ in range(10)]
            refused = [a for a in answers if a.status_code == 429]
            assert refused and all(int(a.headers["Retry-After"]) > 0 for a in refused)
            assert ask(other).status_code == 200
