"""The routes by callers who may not, and by bodies that should not."""

from __future__ import annotations

import gzip
import json
import socket
import time
from collections.abc import Iterator
from typing import Any

import psutil
import pytest
import requests
from gateway_fixtures import FakeMep, Site, User, payload, poll, running_site, unique
from rabbit import server_script

from tests.conftest import lines_with, require

NIL = "00000000-0000-4000-8000-000000000000"
PLACEHOLDERS = ("endpoint_id", "function_id", "task_id", "group_id")


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    require(server_script() is not None, "rabbitmq-server")
    with running_site(start_timeout=5, body_timeout=2) as site:
        yield site


@pytest.fixture(scope="module")
def harper(site: Site) -> User:
    return User(site, unique("harper"))


@pytest.fixture(scope="module")
def jessie(site: Site) -> User:
    return User(site, unique("jessie"))


@pytest.fixture(scope="module")
def mep(site: Site) -> Iterator[FakeMep]:
    mep = FakeMep(User(site, unique("admin"))).online()
    yield mep
    mep.stop()


def double(x: int) -> int:
    return 2 * x


@pytest.fixture(scope="module")
def belongings(harper: User, mep: FakeMep) -> dict[str, str]:
    """Things of Harper's that nobody else may see."""
    function = harper.register(double)
    answer = harper.submit(mep, {function: [payload(1)]}).json()
    (task,) = answer["tasks"][function]
    poll(lambda: harper.finished([task]), "a result")
    private = harper.call("POST", "/v3/endpoints", {"endpoint_name": "private"}).json()
    return {
        "function_id": function,
        "task_id": task,
        "group_id": answer["task_group_id"],
        "endpoint_id": private["endpoint_id"],
    }


@pytest.fixture(scope="module")
def routes(site: Site) -> list[tuple[str, str]]:
    """Method and path of each route of the compute service that needs a token."""
    document = requests.get(f"{site.url}/openapi.json", timeout=10).json()
    found = [
        (method.upper(), path)
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
        if "compute" in operation["tags"] and path != "/v2/version"
    ]
    assert len(found) > 15
    return found


def fill(path: str, values: dict[str, str]) -> str:
    for name in PLACEHOLDERS:
        path = path.replace("{" + name + "}", values.get(name, NIL))
    return path


def test_G1_each_route_by_bad_tokens(
    site: Site, harper: User, routes: list[tuple[str, str]], belongings: dict[str, str]
) -> None:
    revoked = site.admin("token", "add", harper.username)
    site.run("token", "revoke", "-c", str(site.config), stdin=revoked["token"] + "\n")
    expired = site.admin("token", "add", "--days", "0.000001", harper.username)["token"]
    narrow = site.admin("token", "add", "--scope", "openid", harper.username)["token"]
    gone = User(site, unique("gone"))
    site.run("client", "revoke", "-c", str(site.config), gone.client_id)
    headers: list[tuple[str | None, int]] = [
        (None, 401),
        ("", 401),
        ("Bearer", 401),
        ("Bearer ", 401),
        ("Bearer " + "x" * 43, 401),
        ("Bearer " + "ü".encode().decode("latin-1"), 401),
        ("Basic " + harper.token, 401),
        (f"Bearer {revoked['token']}", 401),
        (f"Bearer {revoked['token_id']}", 401),
        (f"Bearer {harper.client_secret}", 401),
        (f"Bearer {narrow}", 403),
    ]

    def is_over() -> bool:
        head = {"Authorization": f"Bearer {expired}"}
        return requests.get(f"{site.url}/v2/endpoints", headers=head, timeout=9).status_code == 401

    poll(is_over, "the token expires")
    headers.append((f"Bearer {expired}", 401))
    for method, path in routes:
        for value, status in headers:
            head = {} if value is None else {"Authorization": value}
            for values in ({}, belongings):
                url = site.url + fill(path, values)
                answer = requests.request(method, url, headers=head, json={}, timeout=10)
                assert answer.status_code == status, (method, path, value, answer.text)
                assert answer.json()["code"] and answer.json()["http_status_code"] == status
    assert oauth(site, gone.client_id, gone.client_secret).status_code == 401


def test_G1_anothers_things_do_not_exist(
    jessie: User, belongings: dict[str, str], routes: list[tuple[str, str]]
) -> None:
    """The answers for Harper's things and for nothing are the same but for the id."""
    bodies = {"PUT": {"endpoint_name": "mine"}, "POST": {"tasks": {NIL: ["x"]}}}
    checked = 0
    for method, path in routes:
        if "{" not in path:
            continue
        body = bodies.get(method)
        theirs = jessie.call(method, fill(path, belongings), body)
        nothing = jessie.call(method, fill(path, {}), body)
        assert theirs.status_code == nothing.status_code == 404, (method, path, theirs.text)
        name = next(n for n in PLACEHOLDERS if "{" + n + "}" in path)
        assert theirs.text.replace(belongings[name], NIL) == nothing.text
        checked += 1
    assert checked > 8


def test_G1_anothers_function_group_and_tasks_are_not_used(
    harper: User, jessie: User, mep: FakeMep, belongings: dict[str, str]
) -> None:
    mine = jessie.register(double)
    answer = jessie.submit(mep, {belongings["function_id"]: [payload(1)]})
    assert answer.status_code == 404
    answer = jessie.submit(mep, {mine: [payload(1)]}, task_group_id=belongings["group_id"])
    assert answer.status_code == 403
    assert jessie.statuses([belongings["task_id"]]) == {}
    answer = jessie.call("PUT", f"/v3/endpoints/{mep.id}", {"endpoint_name": "stolen"})
    assert answer.status_code == 403
    assert jessie.call("DELETE", f"/v2/endpoints/{mep.id}").status_code == 403


def test_a_function_allow_list(site: Site, harper: User) -> None:
    allowed, other = harper.register(double), harper.register(double)
    mep = FakeMep(harper, allowed_functions=[allowed]).online()
    answer = harper.submit(mep, {other: [payload(1)]})
    assert answer.status_code == 403
    assert answer.json()["code"] == "FUNCTION_NOT_PERMITTED"
    assert answer.json()["message"] == f"Function {other} not permitted on endpoint {mep.id}"
    assert harper.submit(mep, {allowed: [payload(1)]}).status_code == 200
    mep.stop()


def test_registration_keeps_the_id(harper: User) -> None:
    body = {"endpoint_name": "lab", "multi_user": True, "metadata": {"hostname": "login01"}}
    first = harper.call("POST", "/v3/endpoints", body).json()
    path = f"/v3/endpoints/{first['endpoint_id']}"
    second = harper.call("PUT", path, {**body, "display_name": "The lab"}).json()
    assert second["endpoint_id"] == first["endpoint_id"]
    url = "connection_url"
    assert second["command_queue_info"]["queue"] == first["command_queue_info"]["queue"]
    assert second["command_queue_info"][url] != first["command_queue_info"][url]
    shown = harper.call("GET", f"/v2/endpoints/{first['endpoint_id']}").json()
    assert shown["display_name"] == "The lab" and shown["metadata"] == body["metadata"]


def oauth(site: Site, client_id: str, secret: str, **form: str) -> requests.Response:
    form = {"grant_type": "client_credentials", **form}
    url = f"{site.url}/v2/oauth2/token"
    return requests.post(url, data=form, auth=(client_id, secret), timeout=10)


def test_client_credentials(site: Site, harper: User) -> None:
    scopes = "openid email " + "urn:globus:auth:scope:auth.globus.org:manage_projects"
    answer = oauth(site, harper.client_id, harper.client_secret, scope=scopes)
    assert answer.status_code == 200 and answer.headers["Cache-Control"] == "no-store"
    token = answer.json()
    assert token["resource_server"] == "auth.globus.org" and token["other_tokens"] == []
    head = {"Authorization": f"Bearer {token['access_token']}"}
    me = requests.get(f"{site.url}/v2/oauth2/userinfo", headers=head, timeout=10).json()
    assert me["sub"] == harper.id and [i["sub"] for i in me["identity_set"]] == [harper.id]
    refused = requests.get(f"{site.url}/v2/endpoints", headers=head, timeout=10)
    assert refused.status_code == 403
    both = oauth(site, harper.client_id, harper.client_secret, scope=f"{scopes} {COMPUTE}").json()
    assert [t["resource_server"] for t in both["other_tokens"]] == ["funcx_service"]
    for ident, secret, status in (
        (harper.client_id, "wrong", 401),
        (NIL, harper.client_secret, 401),
        (harper.client_id, "", 401),
    ):
        assert oauth(site, ident, secret).status_code == status
    answer = oauth(site, harper.client_id, harper.client_secret, scope="urn:unknown")
    assert answer.status_code == 400 and answer.json()["error"] == "invalid_scope"
    answer = oauth(site, harper.client_id, harper.client_secret, grant_type="password")
    assert answer.status_code == 400 and answer.json()["error"] == "unsupported_grant_type"
    auth = (harper.client_id, harper.client_secret)
    form = {"token": token["access_token"]}
    look = f"{site.url}/v2/oauth2/token/introspect"
    assert requests.post(look, data=form, auth=auth, timeout=10).json()["active"] is True
    revoke = f"{site.url}/v2/oauth2/token/revoke"
    assert requests.post(revoke, data=form, auth=auth, timeout=10).status_code == 200
    assert requests.post(look, data=form, auth=auth, timeout=10).json() == {"active": False}
    after = requests.get(f"{site.url}/v2/oauth2/userinfo", headers=head, timeout=10)
    assert after.status_code == 401


COMPUTE = "https://auth.globus.org/scopes/facd7ccc-c5f4-42aa-916b-a0e270e2c2a9/all"


def test_linked_identities(site: Site, harper: User) -> None:
    other = User(site, unique("h.lee"), "--email", "lee@example.com")
    site.run("identity", "link", "-c", str(site.config), harper.username, other.username)
    me = harper.call("GET", "/v2/oauth2/userinfo").json()
    assert {i["username"] for i in me["identity_set"]} == {harper.username, other.username}
    assert me["sub"] == harper.id


def test_G2_secrets_are_random_hashed_and_in_no_log(site: Site, harper: User, mep: FakeMep) -> None:
    secrets = [harper.token, harper.client_secret]
    secrets.append(oauth(site, harper.client_id, harper.client_secret).json()["access_token"])
    url = mep.info["command_queue_info"]["connection_url"]
    secrets.append(url.split("@")[0].rsplit(":", 1)[1])
    stored = b"".join(p.read_bytes() for p in site.dir.glob("gateway.db*"))
    logs = b"".join(p.read_bytes() for p in site.dir.glob("*.log"))
    for secret in secrets:
        assert len(secret) >= 22, "128 bits in base64"
        assert secret.encode() not in stored and secret.encode() not in logs
    assert (site.dir / "gateway.db").stat().st_mode & 0o077 == 0


NASTY_JSON: list[Any] = [
    None,
    [],
    "x",
    1,
    {"x": 1},
    {"tasks": None},
    {"tasks": {"x": []}},
    {"tasks": {NIL: [1]}},
    {"tasks": {NIL: []}},
    {"tasks": {NIL: ["x"]}, "create_queue": 1},
    {"tasks": {NIL: ["x"]}, "task_group_id": "x"},
    {"tasks": {NIL: ["x"]}, "user_endpoint_config": []},
    {"tasks": {NIL: ["x"]}, "user_endpoint_config": {"a": "\ud800"}},
    {"tasks": {NIL: ["x"]}, "user_endpoint_config": {"a\u0000": 2**64}},
    {"tasks": {NIL: ["x"]}, "result_serializers": [1]},
    {"task_ids": "x"},
    {"task_ids": ["x"]},
    {"task_ids": [NIL] * 20_001},
    {"function_name": "f", "function_code": ""},
    {"function_name": "f\u0000", "function_code": "x"},
    {"function_name": "x" * 300, "function_code": "x"},
    {"function_name": "f", "function_code": "x", "meta": {"a": float("inf")}},
    {"endpoint_name": 1},
    {"endpoint_name": "x", "admins": ["x"]},
    {"endpoint_name": "x", "metadata": {"a": {"b": [1e400]}}},
]
NASTY_BYTES = [b"", b"\xff", b"{", b"[" * 100_000, b'{"a":' * 40 + b"1" + b"}" * 40, b"1" * 5000]


def test_no_body_brings_500(site: Site, harper: User, routes: list[tuple[str, str]]) -> None:
    bodies = [json.dumps(v).encode() for v in NASTY_JSON] + NASTY_BYTES
    for method, path in routes:
        if method not in ("POST", "PUT"):
            continue
        for body in bodies:
            head = {"Content-Type": "application/json", "Authorization": f"Bearer {harper.token}"}
            url = site.url + fill(path, {})
            answer = requests.request(method, url, data=body, headers=head, timeout=20)
            assert 400 <= answer.status_code < 500, (method, path, body[:80], answer.text)
            assert set(answer.json()) >= {"status", "code", "http_status_code", "reason"}
    for ident in ("x", "..", "%00", "%ff", NIL + "%0a", "a" * 3000, "'; drop"):
        for path in ("/v2/tasks/", "/v2/functions/", "/v2/endpoints/", "/v2/taskgroup/"):
            status = harper.call("GET", path + ident).status_code
            assert 400 <= status < 500, (path, ident, status)
    assert not lines_with("Traceback", site.log())


def raw(site: Site, head: str, body: bytes = b"", wait: float = 20.0) -> bytes:
    """The first bytes of the answer to a hand-made request."""
    with socket.create_connection(("127.0.0.1", site.port), wait) as stream:
        stream.sendall(head.replace("\n", "\r\n").encode() + b"\r\n")
        try:
            stream.sendall(body)
        except ConnectionError:
            pass  # refused while it was sent
        return stream.recv(400)


def test_G4_bodies_are_bounded(site: Site, harper: User, mep: FakeMep) -> None:
    gateway = psutil.Process(site.pid)
    before = gateway.memory_info().rss
    path = f"/v3/endpoints/{mep.id}/submit"
    head = {"Authorization": f"Bearer {harper.token}", "Content-Type": "application/json"}
    url = site.url + path
    big = b'{"tasks": {"' + b"x" * (11 * 1024 * 1024) + b'": []}}'
    line = f"POST {path} HTTP/1.1\nHost: x\nAuthorization: Bearer {harper.token}\n"
    length = raw(site, f"{line}Content-Length: {len(big)}\n")
    assert b" 413 " in length.splitlines()[0]
    chunked = raw(site, f"{line}Transfer-Encoding: chunked\n", b"%x\r\n" % len(big) + big)
    assert b" 413 " in chunked.splitlines()[0]
    deep = b'{"tasks": ' + b"[" * 10_000 + b"]" * 10_000 + b"}"
    assert requests.post(url, data=deep, headers=head, timeout=10).status_code == 400
    bomb = gzip.compress(b" " * 50_000_000)
    packed = {**head, "Content-Encoding": "gzip"}
    assert requests.post(url, data=bomb, headers=packed, timeout=10).status_code == 400
    started = time.monotonic()
    slow = raw(site, f"{line}Content-Length: 100\n", b"{")
    assert b" 408 " in slow.splitlines()[0] and time.monotonic() - started > 1
    assert gateway.memory_info().rss - before < 50 * 1024 * 1024


def test_the_brokers_questions_are_the_brokers(site: Site, mep: FakeMep) -> None:
    """Unknown accounts and odd forms are denied; the routes are not in the document."""
    for path in ("user", "vhost", "resource", "topic"):
        for form in (b"", b"username=x&password=y&vhost=/", b"\xff", b"username=%00", b"a" * 9999):
            answer = requests.post(f"{site.url}/rabbitmq/{path}", data=form, timeout=10)
            assert answer.status_code in (200, 400) and answer.text != "allow"
    document = requests.get(f"{site.url}/openapi.json", timeout=10).json()
    assert not [p for p in document["paths"] if "rabbitmq" in p]
