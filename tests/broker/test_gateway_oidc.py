"""Logins at an external OpenID Connect provider: a third party's program, and another gateway
(which insists on what it is sent: PKCE, exact redirects, codes that work once)."""

from __future__ import annotations

import contextlib
import json
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit

import globus_sdk
import pytest
import requests
from gateway_fixtures import Site, poll, unique
from login_fixtures import Browser, person, start_without_broker
from rabbit import free_port, server_script

from mepd.gateway.login.desk import BEGUN_AT_ONCE
from tests.conftest import lines_with

SDK_APP = "4cf29807-cf21-49ec-9443-ff9a3fb9f81c"
COMPUTE = "https://auth.globus.org/scopes/facd7ccc-c5f4-42aa-916b-a0e270e2c2a9/all"
CALLBACK = "/v2/web/login/callback"
PEOPLE: list[dict[str, Any]] = [
    {
        "sub": "ann", "preferred_username": "ann@uni.edu", "name": "Ann", "org": "Uni",
        "email": "ann@mail.uni.edu", "email_verified": True,
    },
    {"sub": "bob", "preferred_username": "bob@uni.edu", "email": "ann@uni.edu"},
    {"sub": "eve", "preferred_username": "root@other.org", "name": "Eve"},
    {"sub": "anon"},
    {"sub": "ann2", "preferred_username": "taken@uni.edu"},
]  # fmt: skip


@pytest.fixture(scope="module")
def provider() -> Iterator[str]:
    """The issuer of a running oidc-provider-mock, which is Authlib's provider."""
    port = free_port()
    argv = [sys.executable, "-m", "oidc_provider_mock", "-p", str(port), "--require-nonce"]
    for claims in PEOPLE:
        argv += ["--user-claims", json.dumps(claims)]
    with subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as server:
        issuer = f"http://127.0.0.1:{port}"
        try:
            poll(lambda: is_up(issuer), "the provider")
            yield issuer
        finally:
            server.terminate()


def is_up(url: str) -> bool:
    try:
        return requests.get(f"{url}/.well-known/openid-configuration", timeout=5).ok
    except requests.RequestException:
        return False


def gateway(
    issuer: str, client_id: str, client_secret: str, passwords: bool = False, **oidc: Any
) -> Site:
    """A gateway with this provider, not started yet."""
    if server_script() is None:
        pytest.skip("rabbitmq-server is not installed")
    settings = {"issuer": issuer, "credentials": "oidc.json", **oidc}
    site = Site(oidc=settings, password_login=passwords)
    credentials = site.dir / "oidc.json"
    credentials.touch(0o600)
    credentials.write_text(json.dumps({"client_id": client_id, "client_secret": client_secret}))
    return site


@pytest.fixture(scope="module")
def site(provider: str) -> Iterator[Site]:
    site = gateway(
        provider, "gateway", "any", domains=["uni.edu"], claims={"organization": "org"}, name="Uni"
    )
    try:
        start_without_broker(site)
        yield site
    finally:
        site.remove()


def asked(site: Site, **session: Any) -> tuple[globus_sdk.NativeAppAuthClient, str]:
    """A stock application that wants a person to log in, and the address to go to."""
    app = globus_sdk.NativeAppAuthClient(SDK_APP, base_url=site.url)
    app.oauth2_start_flow(["openid", COMPUTE])
    return app, app.oauth2_get_authorize_url(**session)


def choose(browser: Browser, subject: str) -> None:
    """Log in at the provider's own page."""
    assert "Authorize Client" in browser.page.text, browser.page.text
    browser.page = browser.http.post(browser.page.url, data={"sub": subject}, timeout=30)


def log_in(site: Site, subject: str) -> tuple[dict[str, Any], Browser]:
    """The user information of who has logged in."""
    app, url = asked(site)
    browser = Browser()
    browser.get(url)
    choose(browser, subject)
    tokens = app.oauth2_exchange_code_for_tokens(browser.allow())
    token = tokens.by_resource_server["auth.globus.org"]["access_token"]
    client = globus_sdk.AuthClient(
        base_url=site.url, authorizer=globus_sdk.AccessTokenAuthorizer(token)
    )
    return client.userinfo().data, browser


def test_claims_become_an_identity(site: Site) -> None:
    ann, _ = log_in(site, "ann")
    assert ann["preferred_username"] == "ann@uni.edu" and ann["name"] == "Ann"
    assert ann["email"] == "ann@mail.uni.edu" and ann["organization"] == "Uni"
    again, _ = log_in(site, "ann")
    assert again["sub"] == ann["sub"]
    bob, _ = log_in(site, "bob")
    assert bob["sub"] != ann["sub"] and bob["email"] is None, "not verified"
    assert bob["identity_provider"] == ann["identity_provider"]


@pytest.mark.parametrize("subject", ["eve", "anon", "ann2"])
def test_names_that_are_not_the_providers_own(site: Site, subject: str) -> None:
    if subject == "ann2":
        site.admin("identity", "add", "taken@uni.edu")
    browser = Browser()
    browser.get(asked(site)[1])
    choose(browser, subject)
    assert browser.page.status_code == 403 and "mepd-session" not in browser.http.cookies


def callback_of(site: Site) -> tuple[Browser, str]:
    """A browser just before it comes back, and where the provider sends it."""
    browser = Browser()
    browser.get(asked(site)[1])
    answer = browser.http.post(
        browser.page.url, data={"sub": "ann"}, timeout=30, allow_redirects=False
    )
    return browser, answer.headers["Location"]


def test_g6_a_login_comes_back_once_to_its_own_browser(site: Site) -> None:
    browser, back = callback_of(site)
    assert back.startswith(site.url + CALLBACK + "?")
    assert requests.get(back, timeout=30).status_code == 400, "another browser"
    browser.get(back)
    assert browser.page.status_code == 400, "and then it is over"
    browser, back = callback_of(site)
    query = {k: v[0] for k, v in parse_qs(urlsplit(back).query).items()}
    forged = urlencode({**query, "state": "x" * 43})
    assert browser.get(f"{site.url}{CALLBACK}?{forged}").status_code == 400
    wrong = urlencode({**query, "code": "x"})
    assert browser.get(f"{site.url}{CALLBACK}?{wrong}").status_code == 403
    other, elsewhere = callback_of(site)
    stolen = {k: v[0] for k, v in parse_qs(urlsplit(elsewhere).query).items()}
    browser, back = callback_of(site)
    state = parse_qs(urlsplit(back).query)["state"][0]
    mixed = urlencode({**stolen, "state": state})
    assert browser.get(f"{site.url}{CALLBACK}?{mixed}").status_code == 403, "nonce of another"
    for query_text in ("", "state=%00", "code=x", "error=x"):
        assert browser.get(f"{site.url}{CALLBACK}?{query_text}").status_code == 400


def test_a_password_is_no_way_in(site: Site) -> None:
    user = person(site, unique("local"))
    browser = Browser()
    answer = browser.get(f"{site.url}/v2/web/login", allow_redirects=False)
    assert answer.status_code == 303, "straight to the provider"
    form = {"username": user.username, "password": "correct horse battery"}
    answer = browser.http.post(f"{site.url}/v2/web/login", data=form, timeout=30)
    assert answer.status_code == 403


def test_a_provider_that_is_away_and_comes(site: Site) -> None:
    port = free_port()
    lonely = gateway(f"http://127.0.0.1:{port}", "gw", "secret-canary", passwords=True)
    try:
        start_without_broker(lonely)
        user = person(lonely, unique("local"))
        browser = Browser()
        browser.get(asked(lonely)[1])
        assert "Sign in with 127.0.0.1" in browser.page.text
        away = requests.get(f"{lonely.url}/v2/web/login?provider=external", timeout=30)
        assert away.status_code == 503
        assert "Allow access?" in browser.log_in(user.username).text, "passwords go on"
        assert not lines_with("secret-canary", lonely.log())
    finally:
        lonely.remove()


class Silent(threading.Thread):
    """A provider that takes connections and says nothing."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=64)
        self.port = self.listener.getsockname()[1]
        self.taken: list[socket.socket] = []

    def run(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                self.taken.append(self.listener.accept()[0])

    def end(self) -> None:
        self.listener.shutdown(socket.SHUT_RDWR)
        self.join(20)
        self.listener.close()
        for connection in self.taken:
            connection.close()


def test_a_provider_that_is_silent_holds_up_no_password() -> None:
    silent = Silent()
    silent.start()
    site = gateway(f"http://127.0.0.1:{silent.port}", "gw", "x", passwords=True)
    try:
        start_without_broker(site)
        user = person(site, unique("local"))
        browser = Browser()
        browser.get(asked(site)[1])
        url = f"{site.url}/v2/web/login?provider=external"
        with ThreadPoolExecutor(40) as pool:  # more than asyncio has threads
            waiting = [pool.submit(requests.get, url, timeout=60) for _ in range(40)]
            try:
                poll(lambda: len(silent.taken) >= 4, "questions to the provider")
                assert "Allow access?" in browser.log_in(user.username).text
                assert not any(one.done() for one in waiting), "it did not wait for them"
            finally:
                silent.end()
            assert {one.result().status_code for one in waiting} == {503}
    finally:
        site.remove()


def test_logins_begun_without_end_are_refused(provider: str) -> None:
    """Each is kept for an hour, and takes no login to begin."""
    site = gateway(provider, "gateway", "any")
    try:
        start_without_broker(site)
        url = f"{site.url}/v2/web/login"
        seen: list[requests.Response] = []
        with requests.Session() as http:
            while not seen or seen[-1].status_code == 303 and len(seen) < 5 * BEGUN_AT_ONCE:
                seen.append(http.get(url, timeout=30, allow_redirects=False))
        assert seen[-1].status_code == 429 and int(seen[-1].headers["Retry-After"]) > 0
        assert "<script" not in seen[-1].text and "Too many logins" in seen[-1].text
        assert len(seen) > BEGUN_AT_ONCE
    finally:
        site.remove()


def test_another_gateway_is_the_provider() -> None:
    """With auth_time and a login that must be fresh."""
    first = Site()
    second: Site | None = None
    try:
        start_without_broker(first)
        harper = person(first, "harper@example.org", name="Harper")
        port = free_port()
        made = first.admin(
            "client", "add", "--redirect-uri", f"http://127.0.0.1:{port}{CALLBACK}",
            harper.username,
        )  # fmt: skip
        second = gateway(first.url, made["client_id"], made["client_secret"])
        settings = json.loads(second.config.read_text())
        settings["listen"] = f"127.0.0.1:{port}"
        second.config.write_text(json.dumps(settings))
        second.port, second.url = port, f"http://127.0.0.1:{port}"
        start_without_broker(second)
        app, url = asked(second)
        browser = Browser()
        browser.get(url)
        assert browser.page.url.startswith(first.url)
        browser.log_in(harper.username)
        browser.submit(decision="allow")  # at the first gateway
        tokens = app.oauth2_exchange_code_for_tokens(browser.allow())
        said = tokens.decode_id_token()
        assert said["preferred_username"] == "harper@example.org" and said["name"] == "Harper"
        assert said["sub"] != harper.id and said["auth_time"] > 0
        _, url = asked(second, prompt="login")
        browser.get(url)
        assert "Password" in browser.page.text, "the first gateway must ask again"
        browser.log_in(harper.username)
        browser.submit(decision="deny")
        assert browser.page.url.startswith(second.url)
        assert browser.page.status_code == 403 and "refused" in browser.page.text
    finally:
        first.remove()
        if second is not None:
            second.remove()
