"""Attempts, passwords, addresses and claims, by themselves."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from joserfc import jwt
from joserfc.jwk import ECKey, RSAKey
from sqlalchemy import Connection

from mepd.errors import ConfigError
from mepd.gateway import accounts, config, keys
from mepd.gateway.database import Database
from mepd.gateway.login import attempts, external, passwords, sessions
from mepd.gateway.login.browser import local_target
from mepd.gateway.login.config import OidcSettings
from mepd.gateway.login.provider import Provider, ProviderError, check_claims
from mepd.gateway.oauth import clients, idtoken
from mepd.gateway.oauth.grants import verifier_matches

NOW = 1_000_000.0
LONG_AGO = NOW - 10 * attempts.FORGET_S


@pytest.fixture
def tx(tmp_path: Path) -> Iterator[Connection]:
    db = Database(f"sqlite:///{tmp_path}/x.db")
    db.create()
    with db.engine.begin() as connection:
        yield connection
    db.close()


# --- attempts -------------------------------------------------------------------------
def test_each_further_failure_doubles_the_wait() -> None:
    waits = [attempts.wait_after(n, 3) for n in range(3, 8)]
    assert waits == [15, 30, 60, 120, 240]
    assert attempts.wait_after(2, 3) == 0 and attempts.wait_after(10**6, 3) == 900


def test_who_must_wait_writes_nothing(tx: Connection) -> None:
    who = (attempts.Subject("a", 3), attempts.Subject("h", 100))
    assert attempts.must_wait(tx, who, NOW) == 0
    for _ in range(3):
        assert attempts.begin(tx, who, NOW) == 0
    for later in (0, 14, 15):
        assert attempts.must_wait(tx, who, NOW + later) == 15 - later
    assert attempts.must_wait(tx, who, NOW - 86400) == 0, "left to what sets it right"


def test_a_clock_that_is_set_back_shuts_nobody_out(tx: Connection) -> None:
    """What was noted a day ahead counts from now on."""
    who = (attempts.Subject("a", 3), attempts.Subject("h", 100))
    assert attempts.begin(tx, who, NOW + 86400) == 0
    attempts.succeeded(tx, *who, NOW + 86400)
    assert attempts.begin(tx, who, NOW) == 0
    for _ in range(3):
        assert attempts.begin(tx, who, NOW + 86400) == 0
    assert attempts.begin(tx, who, NOW) == 15
    assert attempts.begin(tx, who, NOW + 14) == 1 and attempts.begin(tx, who, NOW + 15) == 0


def test_attempts_are_counted_before_they_are_tried(tx: Connection) -> None:
    who = (attempts.Subject("a", 3), attempts.Subject("h", 100))
    assert [attempts.begin(tx, who, NOW) for _ in range(4)] == [0, 0, 0, 15]
    assert attempts.begin(tx, who, NOW + 14) == 1, "what is refused does not count"
    assert attempts.begin(tx, who, NOW + 15) == 0
    assert attempts.begin(tx, who, NOW + 15) == 30
    other = (attempts.Subject("b", 3), attempts.Subject("h", 100))
    assert attempts.begin(tx, other, NOW + 16) == 0
    assert attempts.begin(tx, who, NOW + 16 + attempts.FORGET_S) == 0, "an hour forgets"


def test_an_address_is_limited_over_all_accounts(tx: Connection) -> None:
    host = attempts.Subject("h", 5)
    found = [attempts.begin(tx, (attempts.Subject(f"u{n}", 9), host), NOW) for n in range(6)]
    assert found == [0, 0, 0, 0, 0, 15]


def test_success_clears_the_account_and_gives_the_address_one_back(tx: Connection) -> None:
    who, where = attempts.Subject("a", 3), attempts.Subject("h", 4)
    for _ in range(3):
        assert attempts.begin(tx, (who, where), NOW) == 0
    attempts.succeeded(tx, who, where, NOW)
    for _ in range(2):
        assert attempts.begin(tx, (who, where), NOW) == 0
    assert attempts.begin(tx, (who, where), NOW) == 15, "the address"
    attempts.purge(tx, NOW + attempts.FORGET_S + 1)
    assert attempts.begin(tx, (who, where), NOW) == 0


# --- passwords ------------------------------------------------------------------------
def test_passwords_are_argon2id(tx: Connection) -> None:
    made = passwords.make_hash("correct horse")
    assert made.startswith("$argon2id$") and not passwords.outdated(made)
    assert passwords.verify(made, "correct horse")
    assert not passwords.verify(made, "correct horsf") and not passwords.verify(None, "x")
    assert not passwords.verify(None, "no such account"), "the decoy is no password"
    assert not passwords.verify("garbage", "x")
    assert passwords.verify(passwords.make_hash("caf\u00e9 cr\u00e8me"), "cafe\u0301 cre\u0300me")
    for bad in ("", "1234567", "x" * 2000, "é" * 600):
        with pytest.raises(ConfigError):
            passwords.make_hash(bad)


# --- sessions -------------------------------------------------------------------------
def test_a_session_is_one_persons(tx: Connection) -> None:
    ann, lee, bob = (accounts.add_identity(tx, f"{n}@x.org") for n in ("ann", "lee", "bob"))
    accounts.link_identities(tx, ann, lee)
    proof = sessions.Authentication
    first = sessions.log_in(tx, proof(lee, 5.0), None, 60)
    second = sessions.log_in(tx, proof(ann, 7.0), first, 60)
    assert sessions.find(tx, first) is None, "each login has a new cookie"
    session = sessions.find(tx, second)
    assert session is not None and session.identity_id == ann and session.auth_time == 7.0
    assert {a.identity_id for a in session.authentications} == {ann, lee}
    other = sessions.log_in(tx, proof(bob, 9.0), second, 60)
    assert sessions.find(tx, second) is None, "one browser, one person"
    third = sessions.find(tx, other)
    assert third is not None and third.id != session.id
    assert sessions.find(tx, sessions.log_in(tx, proof(bob, 9.0), None, 0)) is None
    assert "secret" not in repr(third) and other not in repr(third)


# --- addresses ------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("target", "good"),
    [
        ("/v2/oauth2/authorize?client_id=x&scope=a%20b", True),
        ("/v2/oauth2/authorize", True),
        ("//evil/v2/oauth2/authorize", False),
        ("/v2/oauth2/authorize/../x", False),
        ("/v2/oauth2/authorize?x#y", False),
        ("/v2/oauth2/authorize?x y", False),
        ("/v2/oauth2/authorize?x\ny", False),
        ("/v2/oauth2/authorize?" + "x" * 20_000, False),
        ("https:/v2/oauth2/authorize", False),
        ("", False),
    ],
)
def test_where_a_login_may_lead(target: str, good: bool) -> None:
    assert local_target(target) == (target if good else "/")


@pytest.mark.parametrize(
    "uri",
    [
        "http://example.org/x",
        "ftp://example.org",
        "https://",
        "https://a.org/#x",
        "https://u@a.org/",
        "https://a.org/\n",
        "https://a.org/;x",
        "javascript:alert(1)",
        "https://a.org/" + "x" * 600,
        "https://[",
        "https://[x]/",
        "https://a.org:99999/",
    ],
)
def test_g6_redirects_that_cannot_be_registered(uri: str) -> None:
    with pytest.raises(ConfigError):
        clients.check_redirect(uri)


def test_redirects_that_can() -> None:
    for uri in ("https://a.org/x?y=1", "http://localhost:80/cb", "http://[::1]/"):
        assert clients.check_redirect(uri) == uri


def test_the_code_page_under_all_its_names() -> None:
    pages = clients.code_pages("http://127.0.0.1:5000")
    assert pages["http://localhost:5000/v2/web/auth-code"] == (
        "http://localhost:5000/v2/web/auth-code"
    )
    assert pages["http://127.0.0.1:5000v2/web/auth-code"] == (
        "http://127.0.0.1:5000/v2/web/auth-code"
    ), "as globus_sdk writes it for an address without a final slash"
    assert set(clients.code_pages("https://c.org/base").values()) == {
        "https://c.org/base/v2/web/auth-code"
    }


def test_g6_pkce() -> None:
    """RFC 7636, appendix B."""
    verifier = "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk"
    challenge = "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM"
    assert verifier_matches(verifier, challenge)
    for wrong in (verifier[:-1] + "l", challenge, "", verifier + "\n", "é" * 43):
        assert not verifier_matches(wrong, challenge)


def test_id_tokens_keys_are_kept(tx: Connection) -> None:
    first = idtoken.load(tx)
    assert idtoken.load(tx).public == first.public
    time.sleep(0.01)
    idtoken.new_key(tx)
    both = idtoken.load(tx)
    assert len(both.public) == 2 and both.public[1] == first.public[0]
    assert all("d" not in key and key["alg"] == "RS256" for key in both.public)


# --- an external provider's claims ----------------------------------------------------
SETTINGS = OidcSettings(
    issuer="https://idp.example.org",
    name="IdP",
    client_id="gw",
    client_secret="x",
    scopes="openid",
    claims={"username": "upn", "name": "name", "email": "email", "organization": "org"},
    domains=frozenset({"example.org"}),
    trust_email=False,
)
GOOD: dict[str, Any] = {
    "iss": "https://idp.example.org", "aud": "gw", "sub": "1", "nonce": "n",
    "exp": time.time() + 7200, "iat": time.time(),
}  # fmt: skip


@pytest.mark.parametrize(
    "changes",
    [
        {"iss": "https://evil.example"},
        {"iss": "https://idp.example.org/"},
        {"aud": "other"},
        {"aud": ["gw", "other"]},
        {"aud": None},
        {"azp": "other"},
        {"nonce": "m"},
        {"nonce": None},
        {"exp": time.time() - 7200},
        {"exp": "never"},
        {"iat": time.time() + 7200},
        {"sub": ""},
        {"sub": 1},
        {"sub": "x" * 300},
        {"sub": "a\ud800"},
        {"exp": float("nan")},
        {"iat": float("nan")},
    ],
)
def test_claims_that_are_not_believed(changes: dict[str, Any]) -> None:
    check_claims(GOOD, "https://idp.example.org", "gw", keys.digest("n"))
    with pytest.raises(ProviderError):
        check_claims({**GOOD, **changes}, "https://idp.example.org", "gw", keys.digest("n"))


def test_claims_become_the_fields_of_an_identity() -> None:
    claims = {"upn": "Ann@Example.org", "name": " Ann ", "email": "ann@x.org", "org": "Uni"}
    who = external.profile(claims, SETTINGS)
    assert who == external.Profile("Ann@example.org", "Ann", None, "Uni")
    assert external.profile({**claims, "email_verified": True}, SETTINGS).email == "ann@x.org"
    assert external.profile({"upn": "ann"}, SETTINGS).username == "ann@example.org"
    for bad in ("ann@evil.net", "", "@example.org", "a b@example.org", "a@b@example.org", "a\n"):
        with pytest.raises(ProviderError):
            external.profile({"upn": bad}, SETTINGS)
    with pytest.raises(ProviderError):
        external.profile({"upn": 7}, SETTINGS)


def test_a_subject_is_one_identity_for_ever(tx: Connection) -> None:
    issuer = SETTINGS.issuer
    who = external.Profile("ann@example.org", "Ann", None, None)
    ident = external.identity_for(tx, "1", who, issuer)
    renamed = external.Profile("ann.b@example.org", "Ann B", None, None)
    assert external.identity_for(tx, "1", renamed, issuer) == ident
    assert accounts.find_identity(tx, ident).username == "ann.b@example.org"
    assert external.identity_for(tx, "2", who, issuer) != ident
    accounts.add_identity(tx, "local@example.org")
    local = external.Profile("local@example.org", None, None, None)
    for subject in ("1", "3"):
        with pytest.raises(ProviderError), tx.begin_nested():
            external.identity_for(tx, subject, local, issuer)


def test_when_somebody_has_proved_himself() -> None:
    said = external.authentication("a", {"auth_time": 5, "amr": ["pwd", "otp"]}, True, NOW)
    assert said.time == 5 and said.mfa
    assert external.authentication("a", {"amr": ["pwd"]}, True, NOW).time == NOW
    assert external.authentication("a", {}, False, NOW).time == 0, "nobody knows"
    future = external.authentication("a", {"auth_time": NOW + 9999}, False, NOW)
    assert future.time == NOW
    for told, when in ((float("nan"), 0), (float("-inf"), 0), (float("inf"), NOW), (10**400, NOW)):
        assert external.authentication("a", {"auth_time": told}, True, NOW).time == when


# --- an external provider's keys ------------------------------------------------------
KEY = RSAKey.generate_key(2048)
PUBLIC = {**KEY.as_dict(private=False), "kid": "good"}
ODD: dict[str, Any] = {
    "curve": {**ECKey.generate_key("P-256").as_dict(private=False), "crv": "none", "kid": "odd"},
    "okp": {"kty": "OKP", "crv": "none", "x": "AA", "kid": "odd"},
    "point": {"kty": "EC", "crv": "P-256", "x": "AA", "y": "AA", "kid": "odd"},
    "rsa": {"kty": "RSA", "n": "AA", "e": "AA", "kid": "odd"},
    "untyped": {"kid": "odd"},
    "list": {"kty": ["RSA"]},
    "number": 1,
}


def verified(monkeypatch: pytest.MonkeyPatch, keys_: Any, kid: str = "good") -> dict[str, Any]:
    """The claims of a token signed with KEY, at a provider that answers with these keys."""
    provider = Provider(SETTINGS, "https://gw.example.org/")
    monkeypatch.setattr(provider, "_get", lambda _url: keys_)
    token = jwt.encode({"alg": "RS256", "kid": kid}, {"sub": "1"}, KEY, algorithms=["RS256"])
    return provider._verified(token, {"jwks_uri": "https://idp.example.org/keys"})


@pytest.mark.parametrize("odd", ODD.values(), ids=ODD)
def test_a_providers_key_of_another_kind_costs_no_login(
    monkeypatch: pytest.MonkeyPatch, odd: Any
) -> None:
    assert verified(monkeypatch, {"keys": [odd, PUBLIC]}) == {"sub": "1"}
    with pytest.raises(ProviderError):
        verified(monkeypatch, {"keys": [odd, PUBLIC]}, "odd")
    with pytest.raises(ProviderError, match="no keys"):
        verified(monkeypatch, {"keys": [odd]})


@pytest.mark.parametrize("answer", [{}, {"keys": None}, {"keys": {}}, {"keys": "x"}])
def test_a_provider_without_keys_is_told(
    monkeypatch: pytest.MonkeyPatch, answer: dict[str, Any]
) -> None:
    with pytest.raises(ProviderError, match="no keys"):
        verified(monkeypatch, answer)


@pytest.mark.parametrize("url", ["https://[", "https://idp.example.org:99999/", "ftp://x", None])
def test_a_providers_address_that_is_none_is_told(
    monkeypatch: pytest.MonkeyPatch, url: str | None
) -> None:
    provider = Provider(SETTINGS, "https://gw.example.org/")
    monkeypatch.setattr(provider, "document", lambda: {"authorization_endpoint": url})
    with pytest.raises(ProviderError, match="authorization_endpoint"):
        provider.start(False)


def test_a_provider_that_names_no_methods_gets_the_usual_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    found = {
        "authorization_endpoint": "https://idp.example.org/a",
        "token_endpoint_auth_methods_supported": None,
    }
    provider = Provider(SETTINGS, "https://gw.example.org/")
    monkeypatch.setattr(provider, "document", lambda: found)
    assert provider.start(False).url.startswith("https://idp.example.org/a?")


# --- configuration --------------------------------------------------------------------
PLAIN = "database: sqlite://\nbroker:\n  credentials: admin.json\n"
OIDC = PLAIN + "oidc:\n  issuer: https://idp.example.org\n  credentials: client.json\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, text in (
        ("admin.json", '{"username": "gw", "password": "p"}'),
        ("client.json", '{"client_id": "gw", "client_secret": "canary"}'),
    ):
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o600)
    return tmp_path


def settings_of(folder: Path, text: str) -> config.Settings:
    (folder / "gateway.yaml").write_text(text)
    return config.load(folder / "gateway.yaml")


def test_an_external_provider_takes_the_place_of_passwords(folder: Path) -> None:
    assert settings_of(folder, PLAIN).password_login
    settings = settings_of(folder, OIDC + "  domains: [Example.ORG]\n  claims: {username: upn}\n")
    assert settings.oidc is not None and not settings.password_login
    assert settings.oidc.domains == {"example.org"} and settings.oidc.name == "idp.example.org"
    assert settings.oidc.claims["username"] == "upn" and settings.oidc.claims["email"] == "email"
    assert "canary" not in repr(settings)
    assert settings_of(folder, OIDC + "password_login: true\n").password_login


def test_where_browsers_find_the_gateway(folder: Path) -> None:
    assert settings_of(folder, PLAIN).public_url == "http://127.0.0.1:5000"
    given = settings_of(folder, PLAIN + "public_url: https://gw.example.org/\n")
    assert given.public_url == "https://gw.example.org"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (PLAIN + "public_url: http://gw.example.org\n", "public_url must be an https URL"),
        (PLAIN + "public_url: https://a@b\n", "public_url must be an https URL"),
        (PLAIN + "public_url: http://[x\n", "public_url must be an https URL"),
        (PLAIN + "public_url: https://a.org:99999\n", "public_url must be an https URL"),
        (PLAIN + "public_url: https://a b\n", "public_url must be an https URL"),
        (OIDC.replace("idp.example.org", "["), "oidc.issuer must be an https URL"),
        (PLAIN + "trusted_proxies: [localhost]\n", "trusted_proxies must be a list of IP"),
        (PLAIN + "password_login: false\n", "without password_login there must be oidc"),
        (PLAIN + "refresh_lifetime: 0\n", "greater than 0"),
        (PLAIN + "oidc: {}\n", "oidc.credentials is missing"),
        (PLAIN + "oidc: {credentials: client.json}\n", "oidc.issuer is missing"),
        (PLAIN + "oidc: {isuer: x}\n", "did you mean 'issuer'"),
        (OIDC.replace("https", "http"), "oidc.issuer must be an https URL"),
        (OIDC.replace("client.json", "admin.json"), "client_id and client_secret"),
        (OIDC + "  claims: {usrname: x}\n", "did you mean 'username'"),
        (OIDC + "  domains: ['*.org']\n", "oidc.domains must be a list of domains"),
    ],
)
def test_faults_of_the_configuration_are_named(folder: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigError) as raised:
        settings_of(folder, text)
    assert message in str(raised.value)
    assert "canary" not in str(raised.value)
