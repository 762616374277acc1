"""Logins as a browser and globus_sdk make them, and what must not pass. No broker is needed."""

from __future__ import annotations

import base64
import hashlib
import subprocess
import time
from collections.abc import Iterator
from urllib.parse import urlencode

import globus_sdk
import pytest
import requests
from gateway_fixtures import Site, User, unique
from login_fixtures import PASSWORD, Browser, add_user, person, start_without_broker

from rabbit import server_script

SDK_APP = "4cf29807-cf21-49ec-9443-ff9a3fb9f81c"
COMPUTE = "https://auth.globus.org/scopes/facd7ccc-c5f4-42aa-916b-a0e270e2c2a9/all"
VERIFIER = "v" * 43
CHALLENGE = base64.urlsafe_b64encode(hashlib.sha256(VERIFIER.encode()).digest()).decode()[:43]


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


@pytest.fixture(scope="module")
def harper(site: Site) -> User:
    return person(site, unique("harper"), name="Harper", email="harper@example.org")


def request_url(site: Site, **changes: str | None) -> str:
    values: dict[str, str | None] = {
        "client_id": SDK_APP,
        "redirect_uri": f"{site.url}/v2/web/auth-code",
        "response_type": "code",
        "scope": f"openid {COMPUTE}",
        "state": "mine",
        "code_challenge": CHALLENGE,
        "code_challenge_method": "S256",
        "access_type": "offline",
        **changes,
    }
    query = urlencode({k: v for k, v in values.items() if v is not None})
    return f"{site.url}/v2/oauth2/authorize?{query}"


def new_code(site: Site, user: User, **changes: str | None) -> str:
    browser = Browser()
    browser.get(request_url(site, **changes))
    browser.log_in(user.username)
    return browser.allow()


def exchange(site: Site, code: str, **changes: str | None) -> requests.Response:
    values: dict[str, str | None] = {
        "grant_type": "authorization_code",
        "client_id": SDK_APP,
        "code": code,
        "code_verifier": VERIFIER,
        "redirect_uri": f"{site.url}/v2/web/auth-code",
        **changes,
    }
    form = {k: v for k, v in values.items() if v is not None}
    return requests.post(f"{site.url}/v2/oauth2/token", data=form, timeout=30)


def refresh(site: Site, token: str, client: str = SDK_APP) -> requests.Response:
    form = {"grant_type": "refresh_token", "refresh_token": token, "client_id": client}
    return requests.post(f"{site.url}/v2/oauth2/token", data=form, timeout=30)


def works(site: Site, token: str) -> bool:
    head = {"Authorization": f"Bearer {token}"}
    status = requests.get(f"{site.url}/v2/oauth2/userinfo", headers=head, timeout=30).status_code
    assert status in (200, 401)
    return status == 200


# --- the way that clients go ----------------------------------------------------------
def test_a_stock_native_app_logs_a_person_in(site: Site, harper: User) -> None:
    app = globus_sdk.NativeAppAuthClient(SDK_APP, base_url=site.url)
    app.oauth2_start_flow(
        ["openid", "email", COMPUTE], refresh_tokens=True, prefill_named_grant="lab <1>"
    )
    browser = Browser()
    browser.get(app.oauth2_get_authorize_url(session_message="because <you>"))
    assert "because &lt;you&gt;" in browser.page.text
    before = int(time.time())
    browser.log_in(harper.username)
    assert "lab &lt;1&gt;" in browser.page.text and harper.username in browser.page.text
    tokens = app.oauth2_exchange_code_for_tokens(browser.allow())
    assert set(tokens.by_resource_server) == {"auth.globus.org", "funcx_service"}
    said = tokens.decode_id_token()
    assert (said["sub"], said["aud"], said["iss"]) == (harper.id, SDK_APP, site.url)
    assert said["auth_time"] >= before and said["email"] == "harper@example.org"
    auth = tokens.by_resource_server["auth.globus.org"]
    client = globus_sdk.AuthClient(
        base_url=site.url, authorizer=globus_sdk.AccessTokenAuthorizer(auth["access_token"])
    )
    assert client.userinfo()["sub"] == harper.id
    assert client.get_identities(ids=harper.id)["identities"][0]["name"] == "Harper"
    assert client.get_consents(harper.id).to_forest().meets_scope_requirements(COMPUTE)
    renewed = app.oauth2_refresh_token(auth["refresh_token"])
    assert list(renewed.by_resource_server) == ["auth.globus.org"]
    app.oauth2_revoke_token(renewed["refresh_token"])
    assert not works(site, renewed["access_token"]) and not works(site, auth["access_token"])


def test_a_session_spares_the_second_login_but_not_the_consent(site: Site, harper: User) -> None:
    browser = Browser()
    browser.get(request_url(site))
    browser.log_in(harper.username)
    first = browser.allow()
    browser.get(request_url(site))
    assert browser.allow() != first
    browser.get(request_url(site, prompt="login"))
    assert "Password" in browser.page.text
    browser.log_in(harper.username)
    browser.allow()
    browser.get(request_url(site))
    denied = browser.submit(follow=False, decision="deny")
    assert denied.status_code == 303
    assert browser.leads_to()["error"] == "access_denied" and browser.leads_to()["state"] == "mine"
    silent = browser.get(request_url(site, prompt="none"), allow_redirects=False)
    assert silent.status_code == 303 and browser.leads_to()["error"] == "consent_required"


def test_linked_identities_are_one_person(site: Site) -> None:
    first, second = person(site, unique("h")), person(site, unique("lee"))
    site.run("identity", "link", "-c", str(site.config), first.username, second.username)
    token = exchange(site, new_code(site, second)).json()["access_token"]
    head = {"Authorization": f"Bearer {token}"}
    me = requests.get(f"{site.url}/v2/oauth2/userinfo", headers=head, timeout=9).json()
    assert me["sub"] == first.id
    assert {i["sub"] for i in me["identity_set"]} == {first.id, second.id}
    site.run("identity", "unlink", "-c", str(site.config), first.username)
    userinfo = f"{site.url}/v2/oauth2/userinfo"
    assert requests.get(userinfo, headers=head, timeout=9).status_code == 401
    for one in (first, second):
        token = exchange(site, new_code(site, one)).json()["access_token"]
        head = {"Authorization": f"Bearer {token}"}
        me = requests.get(userinfo, headers=head, timeout=9).json()
        assert me["sub"] == one.id and [i["sub"] for i in me["identity_set"]] == [one.id]


def test_a_client_with_a_secret_uses_its_own_redirect(site: Site, harper: User) -> None:
    uri = "https://portal.example.org/back?x=1"
    made = site.admin("client", "add", harper.username, "--redirect-uri", uri)
    browser = Browser()
    plain = {"client_id": made["client_id"], "redirect_uri": uri, "code_challenge": None}
    browser.get(request_url(site, **plain, code_challenge_method=None, nonce="once"))
    browser.log_in(harper.username)
    assert "https://portal.example.org" in browser.page.headers["Content-Security-Policy"]
    browser.submit(follow=False, decision="allow")
    back = browser.leads_to()
    assert back["x"] == "1" and back["state"] == "mine"
    form = {"redirect_uri": uri, "code_verifier": None, "client_id": made["client_id"]}
    assert exchange(site, back["code"], **form).status_code == 401
    form["client_secret"] = made["client_secret"]
    tokens = exchange(site, back["code"], **form)
    assert tokens.status_code == 200, tokens.text
    auth = (made["client_id"], made["client_secret"])
    look = {"token": tokens.json()["access_token"], "include": "session_info,identity_set"}
    url = f"{site.url}/v2/oauth2/token/introspect"
    facts = requests.post(url, data=look, auth=auth, timeout=9).json()
    assert facts["active"] and facts["identity_set"] == [harper.id]
    assert harper.id in facts["session_info"]["authentications"]
    app = globus_sdk.ConfidentialAppAuthClient(*auth, base_url=site.url)
    claims = globus_sdk.IDTokenDecoder(app).decode(tokens.json()["id_token"])
    assert claims["nonce"] == "once" and claims["sub"] == harper.id


# --- G6 -------------------------------------------------------------------------------
def test_g6_a_code_works_once_and_its_reuse_ends_the_tokens(site: Site, harper: User) -> None:
    code = new_code(site, harper)
    tokens = exchange(site, code).json()
    assert works(site, tokens["access_token"])
    again = exchange(site, code)
    assert again.status_code == 400 and again.json()["error"] == "invalid_grant"
    assert not works(site, tokens["access_token"])
    assert refresh(site, tokens["refresh_token"]).status_code == 400


@pytest.mark.parametrize(
    "changes",
    [
        {"code_verifier": "w" * 43},
        {"code_verifier": None},
        {"code_verifier": CHALLENGE},
        {"redirect_uri": "https://example.org/v2/web/auth-code"},
        {"redirect_uri": None},
    ],
)
def test_g6_a_code_is_for_one_verifier_and_address(
    site: Site, harper: User, changes: dict[str, str | None]
) -> None:
    code = new_code(site, harper)
    assert exchange(site, code, **changes).json()["error"] == "invalid_grant"
    assert exchange(site, code).status_code == 400, "a code that was tried is used up"


def test_g6_a_code_is_for_one_client(site: Site, harper: User) -> None:
    other = site.admin("client", "add", "--native", "--name", "Other")["client_id"]
    code = new_code(site, harper)
    assert exchange(site, code, client_id=other).json()["error"] == "invalid_grant"
    tokens = exchange(site, new_code(site, harper)).json()
    assert refresh(site, tokens["refresh_token"], other).status_code == 400


@pytest.mark.parametrize(
    "changes",
    [
        {"code_challenge": None},
        {"code_challenge_method": "plain"},
        {"code_challenge_method": None},
        {"code_challenge": "short"},
        {"response_type": "token"},
        {"scope": "urn:unknown"},
        {"prompt": "select"},
    ],
)
def test_g6_a_bad_request_goes_back_to_the_client(
    site: Site, changes: dict[str, str | None]
) -> None:
    browser = Browser()
    answer = browser.get(request_url(site, **changes), allow_redirects=False)
    assert answer.status_code == 303 and "error" in browser.leads_to()
    assert browser.leads_to()["state"] == "mine"


@pytest.mark.parametrize(
    "uri",
    [
        "https://evil.example/v2/web/auth-code",
        "{site}/v2/web/auth-code/",
        "{site}/v2/web/auth-code?x=1",
        "{site}/v2/web/auth-code#x",
        "{site}/v2/web/../web/auth-code",
        "{site}/",
        "{site}.evil.example/v2/web/auth-code",
        "http://user@127.0.0.1/v2/web/auth-code",
        "//evil.example",
        "javascript:alert(1)",
        "",
    ],
)
def test_g6_redirects_are_exact(site: Site, uri: str) -> None:
    url = request_url(site, redirect_uri=uri.replace("{site}", site.url))
    answer = requests.get(url, allow_redirects=False, timeout=9)
    assert answer.status_code == 400 and "Location" not in answer.headers
    unknown = request_url(site, client_id="00000000-0000-0000-0000-000000000000")
    assert requests.get(unknown, allow_redirects=False, timeout=9).status_code == 400
    twice = request_url(site) + "&redirect_uri=https%3A%2F%2Fevil.example"
    assert requests.get(twice, allow_redirects=False, timeout=9).status_code == 400


def test_g6_reuse_of_a_refresh_token_revokes_the_family(site: Site, harper: User) -> None:
    first = exchange(site, new_code(site, harper)).json()
    (compute,) = first["other_tokens"]
    second = refresh(site, first["refresh_token"]).json()
    third = refresh(site, second["refresh_token"]).json()
    assert works(site, third["access_token"])
    stolen = refresh(site, first["refresh_token"])
    assert stolen.status_code == 400 and stolen.json()["error"] == "invalid_grant"
    for token in (third["refresh_token"], compute["refresh_token"], second["refresh_token"]):
        assert refresh(site, token).status_code == 400
    for token in (first["access_token"], second["access_token"], third["access_token"]):
        assert not works(site, token)
    other = exchange(site, new_code(site, harper)).json()
    assert works(site, other["access_token"]), "another login goes on"


# --- pages ----------------------------------------------------------------------------
def test_pages_hold_no_script_and_are_framed_by_nobody(site: Site, harper: User) -> None:
    browser = Browser()
    browser.get(request_url(site, session_message='"><script>alert(1)</script>'))
    seen = [browser.page]
    seen.append(browser.submit(username='"><script>x</script>', password="wrong password"))
    assert seen[-1].status_code == 403 and 'role="alert"' in seen[-1].text
    seen.append(browser.log_in(harper.username))
    browser.allow()
    seen.append(browser.page)
    seen.append(browser.get(f"{site.url}/v2/web/auth-code?code=%3Cscript%3E"))
    seen.append(browser.get(f"{site.url}/v2/web/auth-code?code={'x' * 5000}"))
    for page in seen:
        assert "<script" not in page.text and 'lang="en"' in page.text and "<title>" in page.text
        policy = page.headers["Content-Security-Policy"]
        assert "default-src 'none'" in policy and "frame-ancestors 'none'" in policy
        assert page.headers["Cache-Control"] == "no-store"
        assert harper.client_secret not in page.text and PASSWORD not in page.text
    for cookie in browser.http.cookies:
        assert cookie.has_nonstandard_attr("HttpOnly")
        assert cookie.get_nonstandard_attr("SameSite") == "lax"


def test_forms_of_other_sites_are_refused(site: Site, harper: User) -> None:
    browser = Browser()
    browser.get(request_url(site))
    login = browser.page.url
    fields = {"username": harper.username, "password": PASSWORD}
    good = {**fields, "form_token": browser.token()}
    for form, headers, jar in (
        (fields, {}, browser.http.cookies),
        ({**fields, "form_token": "x"}, {}, browser.http.cookies),
        (good, {}, None),
        (good, {"Origin": "https://evil.example"}, browser.http.cookies),
        (good, {"Origin": "null"}, browser.http.cookies),
        (good, {"Origin": "http://["}, browser.http.cookies),
        (good, {"Origin": "http://[::1"}, browser.http.cookies),
    ):
        answer = requests.post(
            login, data=form, headers=headers, cookies=jar, timeout=30, allow_redirects=False
        )
        assert answer.status_code == 403 and "mepd-session" not in answer.cookies
    stale = browser.token()
    browser.log_in(harper.username)
    forged = browser.http.post(
        browser.page.url, data={"decision": "allow", "form_token": stale}, timeout=9
    )
    assert forged.status_code == 403, "a token from before the login"


@pytest.mark.parametrize(
    "target",
    [
        "https://evil.example",
        "//evil.example",
        "/\\evil.example",
        "/%09/evil.example",
        "javascript:x",
        "/v2/oauth2/authorize@evil.example",
        "/v2/oauth2/authorize\r\nX: y",
        "/healthz",
    ],
)
def test_a_login_leads_nowhere_else(site: Site, harper: User, target: str) -> None:
    browser = Browser()
    browser.get(f"{site.url}/v2/web/login?{urlencode({'next': target})}")
    answer = browser.submit(follow=False, username=harper.username, password=PASSWORD)
    assert answer.status_code == 303 and answer.headers["Location"] == "/"


def test_a_planted_cookie_is_worth_nothing(site: Site, harper: User) -> None:
    browser = Browser()
    browser.get(request_url(site))
    browser.log_in(harper.username)
    old = browser.http.cookies["mepd-session"]
    browser.get(request_url(site, prompt="login"))
    browser.log_in(harper.username)
    assert browser.http.cookies["mepd-session"] != old
    thief = requests.get(
        request_url(site), cookies={"mepd-session": old}, timeout=9, allow_redirects=False
    )
    assert "/v2/web/login" in thief.headers["Location"]


def test_logging_out(site: Site, harper: User) -> None:
    browser = Browser()
    browser.get(request_url(site))
    browser.log_in(harper.username)
    token = browser.token()
    answer = browser.http.post(
        f"{site.url}/v2/web/logout", data={"form_token": token}, timeout=9, allow_redirects=False
    )
    assert answer.status_code == 303
    browser.get(request_url(site))
    assert "Password" in browser.page.text


# --- attempts, passwords, ends --------------------------------------------------------
def test_failed_logins_are_limited_and_the_administrator_can_unlock(site: Site) -> None:
    victim, other = person(site, unique("victim")), person(site, unique("other"))
    browser = Browser()
    browser.get(request_url(site))
    statuses = []
    for _ in range(11):
        page = browser.submit(username=victim.username, password="guess no. 1")
        statuses.append(page.status_code)
    assert statuses == [403] * 10 + [429]
    assert int(browser.page.headers["Retry-After"]) > 0
    assert browser.log_in(victim.username).status_code == 429, "even by the right password"
    fresh = Browser()
    fresh.get(request_url(site))
    assert "Allow access?" in fresh.log_in(other.username).text, "others are not locked out"
    site.run("user", "unlock", "-c", str(site.config), victim.username)
    assert "Allow access?" in browser.log_in(victim.username).text


def test_an_unknown_user_looks_like_a_wrong_password(site: Site, harper: User) -> None:
    nobody = site.admin("identity", "add", unique("nopass"))["username"]
    answers = []
    for name in (harper.username, nobody, unique("nobody"), harper.id):
        browser = Browser()
        browser.get(request_url(site))
        token = browser.token()
        page = browser.submit(username=name, password="not the password")
        answers.append((page.status_code, page.text.replace(name, "").replace(token, "")))
    assert len({status for status, _ in answers}) == 1
    assert len({text for _, text in answers}) == 1


def test_a_new_password_ends_the_logins(site: Site) -> None:
    user = person(site, unique("jessie"))
    browser = Browser()
    browser.get(request_url(site))
    browser.log_in(user.username)
    token = exchange(site, browser.allow()).json()
    site.run("user", "passwd", "-c", str(site.config), user.username, stdin="another good one\n")
    assert not works(site, token["access_token"]) and works(site, user.token)
    assert refresh(site, token["refresh_token"]).status_code == 400
    browser.get(request_url(site))
    assert browser.log_in(user.username).status_code == 403
    assert "Allow access?" in browser.log_in(user.username, "another good one").text


def test_a_disabled_identity_is_refused_everywhere(site: Site) -> None:
    user = person(site, unique("gone"))
    browser = Browser()
    browser.get(request_url(site))
    browser.log_in(user.username)
    token = exchange(site, browser.allow()).json()
    code = new_code(site, user)
    site.run("identity", "disable", "-c", str(site.config), user.username)
    assert not works(site, token["access_token"]) and not works(site, user.token)
    assert refresh(site, token["refresh_token"]).status_code == 400
    assert exchange(site, code).status_code == 400
    form = {"grant_type": "client_credentials"}
    auth = (user.client_id, user.client_secret)
    url = f"{site.url}/v2/oauth2/token"
    assert requests.post(url, data=form, auth=auth, timeout=9).status_code == 401
    browser.get(request_url(site))
    assert browser.log_in(user.username).status_code == 403
    site.run("user", "enable", "-c", str(site.config), user.username)
    assert "Allow access?" in browser.log_in(user.username).text
    assert requests.post(url, data=form, auth=auth, timeout=9).status_code == 200


def test_a_revoked_application_is_unknown(site: Site, harper: User) -> None:
    app = site.admin("client", "add", "--native", "--name", "Portal")["client_id"]
    token = exchange(site, new_code(site, harper, client_id=app), client_id=app).json()
    assert works(site, token["access_token"])
    site.run("client", "revoke", "-c", str(site.config), app)
    assert not works(site, token["access_token"])
    assert requests.get(request_url(site, client_id=app), timeout=9).status_code == 400
    site.run("token", "revoke", "-c", str(site.config), "--identity", harper.username)
    assert not works(site, harper.token)
    harper.token = site.admin("token", "add", harper.username)["token"]


def test_passwords_are_not_arguments_and_not_short(site: Site) -> None:
    known = site.admin("identity", "add", unique("y"))["username"]
    for verb, name, stdin in (("add", unique("x"), "short\n"), ("passwd", known, "\n")):
        done = subprocess.run(
            [site.program, "user", verb, "-c", str(site.config), name],
            input=stdin, capture_output=True, text=True, timeout=60,
        )  # fmt: skip
        assert done.returncode == 78 and "at least 8 characters" in done.stderr
    help_text = site.run("user", "add", "--help") + site.run("user", "passwd", "--help")
    assert "--password" not in help_text


def test_g2_nothing_secret_is_stored_or_logged(site: Site, harper: User) -> None:
    browser = Browser()
    browser.get(request_url(site))
    browser.log_in(harper.username)
    code = browser.allow()
    tokens = exchange(site, code).json()
    add_user(site, unique("z"), password="a canary of a password")
    secrets = [code, tokens["access_token"], tokens["refresh_token"], tokens["id_token"]]
    secrets += [browser.http.cookies["mepd-session"], browser.http.cookies["mepd-form"]]
    for secret in secrets:
        assert len(secret) >= 22, "128 bits in base64"
    stored = b"".join(p.read_bytes() for p in site.dir.glob("gateway.db*"))
    logs = b"".join(p.read_bytes() for p in site.dir.glob("*.log"))
    for secret in [*secrets, PASSWORD, "a canary of a password", VERIFIER]:
        assert secret.encode() not in stored and secret.encode() not in logs
