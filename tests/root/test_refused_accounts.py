"""D4: accounts that must not run a user endpoint, as a start meets them."""

from __future__ import annotations

import grp
import pwd
from pathlib import Path

import pytest

from mepd.config import ini
from mepd.config.launchplan import AccountPolicy
from mepd.master.supervisor import start_rules
from mepd.posix import accounts
from tests.conftest import User, make_user, need_root, remove_user
from tests.root import launching

POLICY = AccountPolicy(min_uid=1000, forbidden_uids=(0, 1500), forbidden_gids=(0, 1501))


def refused(name: str, folder: Path, policy: AccountPolicy = POLICY) -> str:
    """The administrator's reason. Nothing has run."""
    ran = folder / "ran"
    folder.chmod(0o777)
    snap = launching.snapshot(launching.script(folder, f"open({str(ran)!r}, 'w')"))
    request = launching.request(f"{name}@example.org")
    outcome = launching.run(launching.plan(snap, request, policy=policy))
    assert outcome.failed is not None and outcome.failed.stage == "PREPARE" and outcome.code == 70
    assert outcome.mapped is None and not ran.exists()
    assert "see your system administrator" in outcome.failed.public
    return outcome.failed.reason


@pytest.mark.parametrize(
    ("name", "uid", "gid", "word"),
    [
        ("harper", 0, 1000, "has uid 0"),
        ("harper", 1000, 0, "has primary gid 0"),
        ("harper", -1, 1000, "has uid -1"),
        ("harper", 1000, -1, "has gid -1"),
        ("harper", 2**32 - 1, 1000, "has uid 4294967295"),
        ("harper", 1000, 2**32 - 1, "has gid 4294967295"),
        ("harper", 65534, 1000, "has uid 65534"),
        ("harper", 1000, 65534, "has gid 65534"),
        ("harper", 1500, 1000, "has a uid that belongs to mepd itself (1500)"),
        ("harper", 1000, 1501, "has a primary gid that belongs to mepd itself (1501)"),
        ("harper", 999, 1000, "has uid 999, below min_uid 1000"),
        ("harper", 1, 1000, "has uid 1, below min_uid 1000"),
        ("HARPER", 1000, 1000, "asked for user 'harper', the system answered 'HARPER'"),
        ("root", 1000, 1000, "asked for user 'harper', the system answered 'root'"),
        ("harper ", 1000, 1000, "the system answered 'harper '"),
    ],
)
def test_D4_what_the_system_may_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, uid: int, gid: int, word: str
) -> None:
    need_root()
    entry = pwd.struct_passwd((name, "x", uid, gid, "", "/tmp", "/bin/sh"))
    monkeypatch.setattr(accounts.pwd, "getpwnam", lambda _: entry)
    assert word in refused("harper", tmp_path)


@pytest.mark.parametrize(
    ("options", "word"),
    [
        (("--non-unique", "--uid", "0"), "has uid 0"),
        (("--gid", "0"), "has primary gid 0"),
        (("--non-unique", "--uid", "65534"), "has uid 65534"),
        (("--gid", "nogroup"), "has gid 65534"),
        (("--system",), "below min_uid 1000"),
    ],
)
def test_D4_real_accounts(tmp_path: Path, options: tuple[str, ...], word: str) -> None:
    need_root()
    user = make_user(*options)
    try:
        assert word in refused(user.name, tmp_path)
    finally:
        remove_user(user)


def test_D4_who_shares_the_workers_group(jessie: User, tmp_path: Path) -> None:
    """The rules that a configuration gives: mepd's own ids are never served."""
    conf = tmp_path / "mepd.conf"
    conf.write_text(f"[mepd]\nuser = {jessie.name}\n[service]\nurl = http://127.0.0.1:1\n")
    policy = start_rules(ini.load(conf), accounts.lookup(jessie.name), False).policy
    assert "uid that belongs to mepd itself" in refused(jessie.name, tmp_path, policy)
    user = make_user("--gid", grp.getgrgid(jessie.gid).gr_name)
    try:
        reason = refused(user.name, tmp_path, policy)
    finally:
        remove_user(user)
    assert f"primary gid that belongs to mepd itself ({jessie.gid})" in reason


def test_D4_a_second_name_of_a_denied_account(harper: User, tmp_path: Path) -> None:
    policy = AccountPolicy(deny_users=("mt-nobody-has-this", harper.name))
    assert "is in deny_users" in refused(harper.name, tmp_path, policy)
    second = make_user("--non-unique", "--uid", str(harper.uid))
    try:
        reason = refused(second.name, tmp_path, policy)
    finally:
        remove_user(second)
    assert f"has the uid of {harper.name!r}, which is in deny_users ({harper.uid})" in reason
