"""The administrator's commands: what is no argument is told in one line."""

from __future__ import annotations

import contextlib
import json
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from click.testing import CliRunner, Result
from sqlalchemy import Connection, exc

from mepd.gateway import accounts, admin, app
from mepd.gateway.database import Database
from mepd.gateway.failures import StoreUnavailable
from mepd.gateway.main import main

ANN = "ann@example.org"
NOT_UTF8 = os.fsdecode(b"a\xff@example.org")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    account = tmp_path / "admin.json"
    account.touch(0o600)
    account.write_text('{"username": "gw", "password": "p"}')
    configure(tmp_path, f"sqlite:///{tmp_path}/store.db")
    return tmp_path


def configure(folder: Path, database: str) -> None:
    values = {"database": database, "broker": {"credentials": "admin.json"}}
    (folder / "gateway.yaml").write_text(json.dumps(values))


def run(folder: Path, *args: str, stdin: bytes = b"") -> Result:
    config = ("-c", str(folder / "gateway.yaml"))
    return CliRunner().invoke(main, [*args[:2], *config, *args[2:]], input=stdin)


def refused(result: Result, code: int, text: str) -> None:
    """It was no traceback."""
    assert isinstance(result.exception, SystemExit), result.exception
    assert result.exit_code == code and text in result.output


def test_tokens_for_ever_are_none_and_can_be_listed(folder: Path) -> None:
    assert run(folder, "identity", "add", ANN).exit_code == 0
    for days in ("inf", "nan", "0", "-1", "36501", "1e300"):
        refused(run(folder, "token", "add", ANN, "--days", days), 2, "--days")
    assert run(folder, "token", "add", ANN, "--days", str(admin.DAYS_MAX)).exit_code == 0
    db = Database(f"sqlite:///{folder}/store.db")
    db.write(accounts.add_token, ANN, float("inf"), admin.TOKEN_SCOPES)
    db.close()
    listed = run(folder, "token", "list")
    assert listed.exit_code == 0, listed.exception
    assert len(listed.output.splitlines()) == 2
    assert listed.output.count("active  until the end of time") == 1


@pytest.mark.parametrize(
    "args",
    [
        ("user", "add", NOT_UTF8),
        ("user", "passwd", NOT_UTF8),
        ("identity", "add", ANN, "--name", NOT_UTF8),
        ("identity", "disable", NOT_UTF8),
        ("client", "add", NOT_UTF8),
        ("client", "add", "--native", "--name", "x", "--redirect-uri", NOT_UTF8),
        ("token", "add", NOT_UTF8),
        ("token", "revoke", NOT_UTF8),
    ],
)
def test_a_text_that_is_not_utf8_is_told(folder: Path, args: tuple[str, ...]) -> None:
    refused(run(folder, *args, stdin=b"\n"), 2, "is not UTF-8")


def test_a_token_on_standard_input_that_is_none(folder: Path) -> None:
    refused(run(folder, "token", "revoke", stdin=b"\xff\xfe\n"), os.EX_CONFIG, "no such token")


def test_a_url_that_is_none_is_told(folder: Path) -> None:
    args = ("client", "add", "--native", "--name", "x", "--redirect-uri", "https://[")
    refused(run(folder, *args), os.EX_CONFIG, "redirect URI 'https://['")
    for url in ("http://[x", "http://127.0.0.1:99999", "http://127.0.0.1\nlog.file = x"):
        broker = ["broker-config", "--dir", str(folder / "b"), "--credentials", str(folder / "c")]
        refused(CliRunner().invoke(main, [*broker, "--gateway", url]), os.EX_CONFIG, "--gateway")
    assert not (folder / "b").exists()


# --- a store that is none -------------------------------------------------------------
PG = "postgresql://gw:canary@127.0.0.1:1"


@pytest.mark.parametrize(
    ("database", "code", "texts"),
    [
        ("sqlite:///{}/none/x.db", os.EX_UNAVAILABLE, ("{}/none/x.db", "unable to open")),
        ("sqlite:///{}/admin.json", os.EX_UNAVAILABLE, ("{}/admin.json", "not a database")),
        (PG + "/mepd", os.EX_UNAVAILABLE, ("postgresql://127.0.0.1:1/mepd", "refused")),
        (PG + "/mepd?sslkey=canary", os.EX_UNAVAILABLE, ("postgresql://127.0.0.1:1/mepd",)),
        (PG + "/mepd?optoin=canary", os.EX_CONFIG, ("postgresql://127.0.0.1:1/mepd", "optoin")),
        ("postgresql://gw:can@canary@127.0.0.1:1/mepd", os.EX_CONFIG, ("%40",)),
        ("postgresql://gw/canary:canary@127.0.0.1:1/mepd", os.EX_CONFIG, ("%40",)),
        ("postgresql://gw:canary@127.0.0.1:x/mepd", os.EX_CONFIG, ("database: is no URL",)),
        ("sqlite:///x?timeout=canary", os.EX_CONFIG, ("database: sqlite:///x is not usable",)),
        ("canary", os.EX_CONFIG, ("database: is no URL",)),
        ("nosuch://gw:canary@h/mepd", os.EX_CONFIG, ("nosuch",)),
    ],
)
def test_which_store_and_why_is_told_without_secrets(
    folder: Path, database: str, code: int, texts: tuple[str, ...]
) -> None:
    configure(folder, database.format(folder))
    result = run(folder, "identity", "list")
    for text in texts:
        refused(result, code, text.format(folder))
    assert "canary" not in result.output and len(result.output.splitlines()) == 1


def test_a_reason_that_has_the_password_is_not_told(monkeypatch: pytest.MonkeyPatch) -> None:
    db = Database("postgresql://gw:canary@127.0.0.1:1/mepd?sslpassword=bird")
    for said in ("canary", "a bird of the store"):

        def fail(_tx: Any, said: str = said) -> None:
            raise exc.OperationalError("", {}, RuntimeError(said))

        monkeypatch.setattr(db.engine, "begin", lambda: contextlib.nullcontext(None))
        with pytest.raises(StoreUnavailable, match="not available: RuntimeError$"):
            db.read(fail)
    db.close()


def test_what_anybody_is_told_names_no_store(tmp_path: Path) -> None:
    db = Database(f"sqlite:///{tmp_path}/x.db")

    def fail(_tx: Connection) -> None:
        raise exc.OperationalError("", {}, RuntimeError("the reason"))

    with pytest.raises(StoreUnavailable) as raised:
        db.read(fail)
    db.close()
    assert str(tmp_path) in str(raised.value) and "the reason" in str(raised.value)
    request: Any = SimpleNamespace(method="GET", url=SimpleNamespace(path="/"))
    answer = app._unavailable(request, raised.value)
    assert answer.status_code == 503 and b"the store is not available" in answer.body
    assert str(tmp_path).encode() not in answer.body and b"the reason" not in answer.body
