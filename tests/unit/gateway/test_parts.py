"""The gateway's configuration, its broker's, and small pure parts."""

from __future__ import annotations

import base64
import hashlib
import json
from pathlib import Path

import pytest

from mepd.errors import ConfigError
from mepd.gateway import accounts, brokernode, config, names
from mepd.gateway.oauth.errors import OAuthError
from mepd.gateway.oauth.scopes import group_scopes
from mepd.gateway.failures import ApiError
from mepd.gateway.models import FunctionBody
from mepd.gateway.routes_registry import packed_code
from mepd.gateway.starts import Person, Uep, start_message
from mepd.gateway.strict import parse_body
from mepd.wire import start_request

GOOD = "database: sqlite://\nbroker:\n  credentials: admin.json\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "admin.json"
    path.write_text(json.dumps({"username": "gw", "password": "p@ss/word"}))
    path.chmod(0o600)
    return tmp_path


def load(folder: Path, text: str) -> config.Settings:
    path = folder / "gateway.yaml"
    path.write_text(text)
    return config.load(path)


def test_defaults(folder: Path) -> None:
    settings = load(folder, GOOD)
    assert (settings.host, settings.port) == ("127.0.0.1", 5000)
    assert settings.broker_user == "gw" and settings.broker_password == "p@ss/word"
    assert "p@ss" not in repr(settings)
    assert settings.public_broker == names.PublicBroker("127.0.0.1", 5672)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (GOOD + "lisen: x\n", "did you mean 'listen'"),
        (GOOD + "listen: 5000\n", "listen has the wrong type"),
        (GOOD + "listen: localhost\n", "HOST:PORT"),
        (GOOD + "listen: localhost:99999\n", "HOST:PORT"),
        (GOOD + "start_timeout: -1\n", "greater than 0"),
        (GOOD + "start_timeout: true\n", "wrong type"),
        (GOOD + "log_level: loud\n", "log_level must be one of"),
        (GOOD + "  prot: 1\n", "broker.prot; did you mean 'port'"),
        (GOOD + "listen: 0.0.0.0:443\n", "0.0.0.0 is not the loopback"),
        (GOOD + "tls_key: admin.json\n", "go together"),
        (GOOD + "tls_key: none\ntls_certificate: admin.json\n", "none cannot be read"),
        ("broker:\n  credentials: admin.json\n", "database is missing"),
        ("database: x\n", "broker.credentials is missing"),
        ("database: x\nbroker:\n  credentials: none.json\n", "No such file"),
        ("a: [\n", "gateway.yaml:2: "),
        ("[]", "must be a mapping"),
        ("\x00", "characters are not allowed"),
        (GOOD + "token_lifetime: .inf\n", "token_lifetime must be greater than 0, and at most"),
        (GOOD + "start_timeout: .nan\n", "start_timeout must be greater than 0, and at most"),
        (GOOD + f"keep_results: {10**10}\n", "keep_results must be greater than 0, and at most"),
        (GOOD + f"body_max: {10**200}\n", "body_max must be greater than 0, and at most"),
        (GOOD + "requests_burst: " + "9" * 400, "gateway.yaml:4: a number of 400 characters"),
        (GOOD + "requests_burst: " + "9" * 5000, "a number of 5000 characters"),
        (GOOD + "listen: localhost:" + "1" * 5000, "HOST:PORT"),
        (GOOD + "  port: 70000\n", "broker.port must be greater than 0, and at most 65,535"),
        (GOOD + "  public_port: 65536\n", "broker.public_port must be greater than 0"),
        (GOOD + "broker_auth_from: [10.0.0.0/8]\n", "broker_auth_from must be a list of IP"),
        (GOOD + "metrics_from: [localhost]\n", "metrics_from must be a list of IP"),
        (GOOD + "metrics_from: [1]\n", "metrics_from must be a list of IP"),
        (GOOD + "trusted_proxies: [true]\n", "trusted_proxies must be a list of IP"),
        (GOOD + "a: " + "[" * 900, "gateway.yaml:4: nested too deeply"),
        (GOOD + "start_timeout: 2001-99-99\n", "a value that is none"),
        (GOOD + 'tls_key: "a\\0"\ntls_certificate: b\n', "tls_key has a NUL"),
    ],
)
def test_faults_are_named(folder: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigError) as raised:
        load(folder, text)
    assert message in str(raised.value)


def test_addresses_are_as_a_connections_is_written(folder: Path) -> None:
    text = GOOD + "broker_auth_from: ['0:0::1', 10.0.0.1]\nmetrics_from: ['FE80::1']\n"
    settings = load(folder, text)
    assert settings.broker_auth_from == ("::1", "10.0.0.1")
    assert settings.metrics_from == ("fe80::1",)
    assert settings.trusted_proxies == ()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[" * 100_000, "not JSON"),
        ("{", "not JSON"),
        ('{"username": "\\ud800", "password": "p"}', "half a character"),
        ('{"username": "gw", "password": "\\u0000"}', "NUL"),
    ],
)
def test_what_is_no_account_is_told(folder: Path, text: str, message: str) -> None:
    (folder / "admin.json").write_text(text)
    with pytest.raises(ConfigError, match=message):
        load(folder, GOOD)


def test_an_open_password_file_is_refused(folder: Path) -> None:
    (folder / "admin.json").chmod(0o640)
    with pytest.raises(ConfigError, match="chmod 600"):
        load(folder, GOOD)


def test_urls_are_quoted() -> None:
    broker = names.PublicBroker("::1", 5671, "/", True)
    assert broker.url("a:b", "c@d/e") == "amqps://a%3Ab:c%40d%2Fe@[::1]:5671/%2F"


def test_the_broker_hash() -> None:
    salt = b"\x01\x02\x03\x04"
    stored = base64.b64decode(brokernode.password_hash("secret", salt))
    assert stored == salt + hashlib.sha256(salt + b"secret").digest()


def test_the_nodes_files_are_private_and_repeatable(tmp_path: Path) -> None:
    node = brokernode.Node(tmp_path / "node", 5672, 4369, 25672, "http://127.0.0.1:5000/")
    for _ in range(2):
        brokernode.write_node(node, tmp_path / "admin.json")
    _, password = config.read_credentials(tmp_path / "admin.json")
    for path in (tmp_path / "node").iterdir():
        assert path.stat().st_mode & 0o077 == 0
        assert password not in path.read_text()
    conf = (tmp_path / "node" / "rabbitmq.conf").read_text()
    assert "auth_http.user_path = http://127.0.0.1:5000/rabbitmq/user\n" in conf


def test_scopes_by_resource_server() -> None:
    compute = accounts.COMPUTE_SCOPE
    groups = group_scopes(f"openid {compute} email openid")
    assert groups == {"auth.globus.org": ["openid", "email"], "funcx_service": [compute]}
    assert group_scopes("") == {"funcx_service": [compute]}
    with pytest.raises(OAuthError):
        group_scopes("openid transfer")


def test_source_code_becomes_a_packed_buffer() -> None:
    body = FunctionBody(function_name="f", function_code="def f(): pass", serialized=False)
    assert packed_code(body) == "18\nst\nf:def f(): pass"
    assert packed_code(FunctionBody(function_name="f", function_code="1\nx")) == "1\nx"


BAD_JSON = [
    b"",
    b"{",
    b"\xff",
    b"NaN",
    b"[Infinity]",
    b"1" * 5000,
    b"[" * 99999,
    b'"\\ud800"',
    b'"\\u0000"',
    b'{"a\\u0000": 1}',
    b"[18446744073709551616]",
    b"[1e999]",
    b"[" * 40 + b"]" * 40,
    b"[" + b"0," * 4_000_000 + b"0]",
]


@pytest.mark.parametrize("body", BAD_JSON, ids=range(len(BAD_JSON)))
def test_G4_strict_json(body: bytes) -> None:
    with pytest.raises(ApiError) as raised:
        parse_body(body)
    assert raised.value.status == 400


def test_the_start_request_fits_its_reader() -> None:
    """What the gateway publishes is what mepd's consumer accepts."""
    mep, uep, user = (f"{n}0000000-0000-4000-8000-000000000000" for n in "123")
    person = Person("harper@example.org", [{"id": user, "sub": user}], ("name", "password"))
    body = start_message(Uep(uep, mep, user, {"a": 1}, {"b": 2}), person, "amqp://x/")
    request = start_request.decode(body, "application/json", 1000, 1000.0, mep)
    assert request.name == f"uep.{mep}.{uep}" and request.user_opts == {"a": 1}
    assert request.username == "harper@example.org" and request.user_runtime == {"b": 2}
    key = request.amqp_creds["heartbeat_queue_info"]["queue_publish_kwargs"]["routing_key"]
    assert key == uep
