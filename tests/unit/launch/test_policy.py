"""Which names and accounts may run a user endpoint."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mepd.config.launchplan import AccountPolicy
from mepd.launch import mapping, resolve
from mepd.launch.failure import StageError
from mepd.launch.policy import account_refusal, group_refusal, name_refusal
from mepd.model import StartRequest
from mepd.posix.accounts import Account

POLICY = AccountPolicy(min_uid=1000, deny_users=("mallory",), forbidden_uids=(0, 1500))


def account(name: str = "harper", uid: int = 1001, gid: int = 1001) -> Account:
    return Account(name, uid, gid, "", "/home/harper", "/bin/sh")


@pytest.mark.parametrize("name", ["harper", "_apt", "a.b-c_9", "x" * 32])
def test_I2_plain_names_pass(name: str) -> None:
    assert name_refusal(name, POLICY) is None


@pytest.mark.parametrize(
    "name",
    [
        "", "-rf", "a/b", "../root", "a\0b", "harper\n", "\nharper", "Root", "x" * 33, "a b",
        "1000", "0", "héloise", "a:b", "a;b", "$(id)", ".", "..",
    ],
)  # fmt: skip
def test_I2_other_names_are_refused_before_getpwnam(name: str) -> None:
    assert name_refusal(name, POLICY) is not None


@given(st.text(max_size=40))
def test_I2_nothing_but_the_plain_alphabet(name: str) -> None:
    if name_refusal(name, POLICY) is None:
        assert name.isascii() and name == name.lower() and 1 <= len(name) <= 32
        assert not set(name) & set("/\\:;\n\r\t\0 $`'\"") and name[0] != "-"


ANY = AccountPolicy(name_pattern=".*")


@pytest.mark.parametrize("name", ["Harper", "héloise", "1000x", "x" * 256, "a@b", "dom\\\\x"])
def test_I2_a_sites_own_pattern(name: str) -> None:
    assert name_refusal(name, ANY) is None
    assert name_refusal(name, POLICY) is not None
    assert name_refusal("harper", AccountPolicy(name_pattern="[A-Z]{1,8}")) is not None


@pytest.mark.parametrize(
    "name", ["", "-rf", "a/b", "a\0b", "a\n", "\na", "a b", "a:b", "a\x7f", "x" * 257, "a\tb"]
)
def test_I2_what_no_pattern_can_allow(name: str) -> None:
    assert name_refusal(name, ANY) is not None


def test_deny_users() -> None:
    assert "deny_users" in (name_refusal("mallory", POLICY) or "")


@pytest.mark.parametrize(
    ("asked", "got", "word"),
    [
        ("root", account("root", 0, 0), "uid 0"),
        ("toor", account("toor", 0, 1001), "uid 0"),
        ("harper", account(gid=0), "primary gid 0"),
        ("harper", account(uid=65534), "65534"),
        ("harper", account(uid=2**32 - 1), "4294967295"),
        ("harper", account(uid=-1), "-1"),
        ("harper", account(gid=65534), "gid 65534"),
        ("harper", account(gid=2**32 - 1), "gid 4294967295"),
        ("mepd", account("mepd", 1500), "belongs to mepd"),
        ("daemon", account("daemon", 999), "min_uid 1000"),
        ("harper", account("HARPER"), "the system answered 'HARPER'"),
    ],
)
def test_D4_accounts_that_must_not_run(asked: str, got: Account, word: str) -> None:
    assert word in (account_refusal(asked, got, POLICY) or "")


def test_D4_an_ordinary_account_may() -> None:
    assert account_refusal("harper", account(), POLICY) is None


def test_allow_groups() -> None:
    only = AccountPolicy(allow_gids=(50, 60))
    assert group_refusal("harper", [1001, 60], only) is None
    assert "allow_groups" in (group_refusal("harper", [1001, 61], only) or "")
    assert group_refusal("harper", [], POLICY) is None


def test_I5_a_pattern_for_names_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """``mapped_name_pattern`` is an expression, too."""
    monkeypatch.setattr(mapping, "EXPRESSION_TIMEOUT", 0.2)
    request = StartRequest(
        name="uep", mep_id="m", uep_id="u", effective_identity="e", username="x", identity_set=(),
        timestamp=0, amqp_creds={}, user_opts={}, user_runtime={},
    )  # fmt: skip
    policy = AccountPolicy(name_pattern="([a-z]+)*")
    plan: Any = SimpleNamespace(request=request, policy=policy)
    with pytest.raises(StageError, match="mapped_name_pattern took longer"):
        resolve.find_account("a" * 60 + "-", plan)
