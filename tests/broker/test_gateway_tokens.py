"""Bar G1 over the whole route table of the application: no route without its test."""

from __future__ import annotations

import datetime
import ipaddress
import re
import subprocess
import uuid
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from fastapi.routing import APIRoute
from gateway_fixtures import Site, User, poll, unique
from login_fixtures import PASSWORD, Browser, person, start_without_broker
from sqlalchemy import update

from mepd.gateway.accounts import COMPUTE_SCOPE
from mepd.gateway.app import create_app
from mepd.gateway.config import load
from mepd.gateway.database import Database
from mepd.gateway.schema import tokens
from mepd.gateway.service import Service
from rabbit import server_script

OPEN = {
    "/healthz",
    "/readyz",
    "/metrics",
    "/v2/version",
    "/.well-known/openid-configuration",
    "/jwk.json",
}
"""Routes that say nothing about anybody."""
PAGES = {
    "/",
    "/v2/oauth2/authorize",
    "/v2/web/auth-code",
    "/v2/web/login",
    "/v2/web/login/callback",
    "/v2/web/logout",
}
"""What a browser sees; a session's cookie, not a token, opens them."""
CLIENTS = {"/v2/oauth2/token", "/v2/oauth2/token/revoke", "/v2/oauth2/token/introspect"}
"""A client's secret opens them."""
BROKER = "/rabbitmq/"

AUTH_ROUTES = ("/v2/oauth2/", "/v2/api/")


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    if server_script() is None:
        pytest.skip("rabbitmq-server is not installed")
    site = Site()
    try:
        start_without_broker(site)
        yield site
    finally:
        site.remove()


def flat(routes: Iterable[Any]) -> list[Any]:
    """All routes; newer versions of FastAPI keep those of a router below it."""
    found: list[Any] = []
    for route in routes:
        below = getattr(route, "original_router", None)
        found += flat(below.routes) if below is not None else [route]
    return found


def route_table(site: Site) -> list[tuple[str, str]]:
    """Method and path of every route that a token opens."""
    settings = load(site.config)
    routes = flat(create_app(Service(settings, Database(settings.database))).routes)
    documents = {"/openapi.json", "/docs", "/docs/oauth2-redirect", "/redoc"}
    for route in routes:
        assert isinstance(route, APIRoute) or route.path in documents, "a route unknown here"
    known = OPEN | PAGES | CLIENTS | documents
    return [
        (method, route.path)
        for route in routes
        for method in sorted(route.methods - {"HEAD"})
        if route.path not in known and not route.path.startswith(BROKER)
    ]


def bad_tokens(site: Site, harper: User) -> dict[str, str | None]:
    """Header values that nothing accepts."""
    db = Database(f"sqlite:///{site.dir}/gateway.db")
    expired, revoked, gone = (person(site, unique(n), None) for n in ("old", "rev", "gone"))
    for user, values in ((expired, {"expires": 1.0}), (revoked, {"revoked": True})):
        match = tokens.c.identity_id == user.id
        db.write(lambda tx, m, v: tx.execute(update(tokens).where(m).values(**v)), match, values)
    db.close()
    site.run("identity", "disable", "-c", str(site.config), gone.username)
    return {
        "none": None,
        "empty": "",
        "no token": "Bearer",
        "blank token": "Bearer ",
        "unknown": "Bearer " + "x" * 43,
        "not ASCII": "Bearer " + "ü".encode().decode("latin-1"),
        "two": f"Bearer {harper.token} {harper.token}",
        "long": "Bearer " + "y" * 8000,
        "other scheme": f"Basic {harper.token}",
        "expired": f"Bearer {expired.token}",
        "revoked": f"Bearer {revoked.token}",
        "disabled": f"Bearer {gone.token}",
        "a client's secret": f"Bearer {harper.client_secret}",
    }


def fill(path: str, value: str) -> str:
    return re.sub(r"\{[a-z_]+\}", value, path)


def test_g1_every_route_of_the_table_by_bad_tokens(site: Site) -> None:
    harper = person(site, unique("harper"), None)
    routes = route_table(site)
    assert len(routes) >= 30
    headers = bad_tokens(site, harper)
    narrow = site.admin("token", "add", "--scope", "openid", harper.username)["token"]
    other = site.admin("token", "add", "--scope", COMPUTE_SCOPE, harper.username)["token"]
    with requests.Session() as http:
        for method, path in routes:
            url = site.url + fill(path, str(uuid.uuid4()))
            answers = set()
            for what, value in headers.items():
                head = {} if value is None else {"Authorization": value}
                answer = http.request(method, url, headers=head, json={}, timeout=20)
                assert answer.status_code == 401, (method, path, what, answer.text)
                assert answer.headers["WWW-Authenticate"] == "Bearer"
                answers.add(answer.text)
            assert len(answers) == 1, "the answers tell nothing of what is wrong"
            wrong = other if path.startswith(AUTH_ROUTES) else narrow
            head = {"Authorization": f"Bearer {wrong}"}
            answer = http.request(method, url, headers=head, json={}, timeout=20)
            assert answer.status_code == 403, (method, path, answer.text)


def test_g1_consents_and_projects_of_others_do_not_exist(site: Site) -> None:
    harper, jessie = (person(site, unique(n), None) for n in ("harper", "jessie"))
    assert harper.call("GET", f"/v2/api/identities/{harper.id}/consents").status_code == 200
    theirs = jessie.call("GET", f"/v2/api/identities/{harper.id}/consents")
    nobodys = jessie.call("GET", f"/v2/api/identities/{uuid.uuid4()}/consents")
    assert theirs.status_code == nobodys.status_code == 403 and theirs.text == nobodys.text
    body = {"project": {"display_name": "P", "contact_email": "p@example.org"}}
    project = harper.call("POST", "/v2/api/projects", body).json()["project"]["id"]
    made = {"policy": {"project_id": project, "display_name": "P", "description": ""}}
    policy = harper.call("POST", "/v2/api/policies", made).json()["policy"]["id"]
    for kind, ident in (("projects", project), ("policies", policy)):
        nil = str(uuid.uuid4())
        for method, sent in (("GET", None), ("PUT", {kind_name(kind): {}}), ("DELETE", None)):
            theirs = jessie.call(method, f"/v2/api/{kind}/{ident}", sent)
            nobodys = jessie.call(method, f"/v2/api/{kind}/{nil}", sent)
            assert theirs.status_code == nobodys.status_code == 404, (method, kind, theirs.text)
            assert theirs.text.replace(ident, nil) == nobodys.text


def kind_name(kind: str) -> str:
    return {"projects": "project", "policies": "policy"}[kind]


def test_g1_another_clients_tokens_are_unknown(site: Site) -> None:
    """Introspection and revocation: a client reaches its own tokens only."""
    harper, jessie = (person(site, unique(n), None) for n in ("harper", "jessie"))
    form = {"grant_type": "client_credentials", "scope": "openid"}
    url = f"{site.url}/v2/oauth2/token"
    mine = (harper.client_id, harper.client_secret)
    theirs = (jessie.client_id, jessie.client_secret)
    token = requests.post(url, data=form, auth=mine, timeout=9).json()["access_token"]
    for secret in (token, harper.token, "nothing"):
        look = requests.post(f"{url}/introspect", data={"token": secret}, auth=theirs, timeout=9)
        assert look.json() == {"active": False}
        done = requests.post(f"{url}/revoke", data={"token": secret}, auth=theirs, timeout=9)
        assert done.status_code == 200 and done.json() == {"active": False}
    look = requests.post(f"{url}/introspect", data={"token": token}, auth=mine, timeout=9)
    assert look.json()["active"] is True
    for auth in ((harper.client_id, "x"), (str(uuid.uuid4()), "x"), ("\x00", "x"), ("ü", "x")):
        for route in ("", "/introspect", "/revoke"):
            answer = requests.post(
                url + route, data={**form, "token": token},
                auth=(auth[0].encode(), auth[1].encode()), timeout=9,
            )  # fmt: skip
            assert answer.status_code == 401 and answer.json()["error"] == "invalid_client"


def test_tls_is_needed_beyond_the_loopback(site: Site, tmp_path: Path) -> None:
    for listen, code in (("0.0.0.0:0", 78), ("0.0.0.0:5443", 78), ("[::]:5443", 78)):
        config = tmp_path / "gateway.yaml"
        text = site.config.read_text().replace(f"127.0.0.1:{site.port}", listen)
        config.write_text(text.replace('"admin.json"', f'"{site.dir}/admin.json"'))
        done = subprocess.run(
            [site.program, "serve", "-c", str(config)], capture_output=True, text=True, timeout=60
        )
        assert done.returncode == code and "listen" in done.stderr, done.stderr


def test_addresses_behind_a_trusted_proxy() -> None:
    """The broker's questions are answered to the broker, not to the proxy's clients."""
    if server_script() is None:
        pytest.skip("rabbitmq-server is not installed")
    site = Site(trusted_proxies=["127.0.0.1"])
    try:
        start_without_broker(site)
        url = f"{site.url}/rabbitmq/user"
        for chain, status in ((None, 200), ("203.0.113.9", 404), ("127.0.0.1, 203.0.113.9", 404)):
            head = {} if chain is None else {"X-Forwarded-For": chain}
            answer = requests.post(url, data={"username": "x"}, headers=head, timeout=20)
            assert answer.status_code == status, chain
    finally:
        site.remove()


def certificate(folder: Path) -> Path:
    """A certificate for 127.0.0.1, signed by itself; its key beside it."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.datetime.now(datetime.UTC)
    address = x509.IPAddress(ipaddress.ip_address("127.0.0.1"))
    made = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([address]), critical=False)
        .sign(key, hashes.SHA256())
    )
    pem = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    (folder / "key.pem").write_bytes(pem)
    (folder / "cert.pem").write_bytes(made.public_bytes(serialization.Encoding.PEM))
    return folder / "cert.pem"


def test_over_tls_cookies_are_for_tls_only() -> None:
    if server_script() is None:
        pytest.skip("rabbitmq-server is not installed")
    site = Site(tls_certificate="cert.pem", tls_key="key.pem")
    try:
        trust = str(certificate(site.dir))
        site.url = site.url.replace("http:", "https:")
        user = person(site, unique("harper"))
        site.start_gateway(wait=False)
        browser = Browser()
        browser.http.verify, browser.http.trust_env = trust, False
        poll(lambda: answers(site.url, trust), "the gateway")
        said = browser.get(f"{site.url}/.well-known/openid-configuration").json()
        assert said["issuer"] == site.url
        browser.get(f"{site.url}/v2/web/login")
        browser.submit(follow=False, username=user.username, password=PASSWORD)
        assert browser.page.status_code == 303
        assert {c.name for c in browser.http.cookies} == {
            "__Host-mepd-form",
            "__Host-mepd-session",
        }
        assert all(c.secure and c.path == "/" for c in browser.http.cookies)
    finally:
        site.remove()


def answers(url: str, trust: str) -> bool:
    try:
        return requests.get(f"{url}/healthz", verify=trust, timeout=5).ok
    except requests.RequestException:
        return False
