"""POSIX accounts, and becoming one of them for good."""

from __future__ import annotations

import errno
import grp
import os
import pwd
from dataclasses import dataclass

from mepd.posix import syscalls


@dataclass(frozen=True)
class Account:
    """One entry of getpwnam(3)."""

    name: str
    uid: int
    gid: int
    gecos: str
    home: str
    shell: str


def lookup(name: str) -> Account:
    """The account called ``name``. Raises KeyError."""
    p = pwd.getpwnam(name)
    return Account(p.pw_name, p.pw_uid, p.pw_gid, p.pw_gecos, p.pw_dir, p.pw_shell)


def lookup_uid(uid: int) -> Account:
    """The first account with ``uid``. Raises KeyError."""
    p = pwd.getpwuid(uid)
    return Account(p.pw_name, p.pw_uid, p.pw_gid, p.pw_gecos, p.pw_dir, p.pw_shell)


def group_id(name: str) -> int:
    """The gid of a group. Raises KeyError."""
    return grp.getgrnam(name).gr_gid


def groups_of(account: Account) -> list[int]:
    """getgrouplist(3): the gids that initgroups(3) would give."""
    return os.getgrouplist(account.name, account.gid)


def set_groups(account: Account) -> None:
    """initgroups(3): the account's supplementary groups and no other. Raises OSError."""
    os.initgroups(account.name, account.gid)


def set_gid(account: Account) -> None:
    """setresgid(2) of all three ids. Raises OSError."""
    os.setresgid(account.gid, account.gid, account.gid)


def set_uid(account: Account) -> None:
    """setresuid(2) of all three ids. Raises OSError."""
    os.setresuid(account.uid, account.uid, account.uid)


def prove_irreversible(account: Account, old_uid: int, old_gid: int) -> None:
    """Try to become what the process was, in every way; raise PermissionError if one works."""
    attempts = [
        (os.setuid, (old_uid,)),
        (os.seteuid, (old_uid,)),
        (os.setresuid, (old_uid, old_uid, old_uid)),
        (os.setgid, (old_gid,)),
        (os.setegid, (old_gid,)),
        (os.setresgid, (old_gid, old_gid, old_gid)),
        (os.setgroups, ([old_gid],)),
    ]
    for call, args in attempts:
        try:
            call(*args)  # type: ignore[operator]
        except PermissionError:
            continue
        raise PermissionError(f"privileges could be regained by {call.__name__}")
    if os.getresuid() != (account.uid,) * 3 or os.getresgid() != (account.gid,) * 3:
        raise PermissionError("the ids are not the account's")


def drop_for_good(account: Account) -> None:
    """Become ``account`` with no capability and no way to get one. Raises OSError.

    Without root there is only one account to be, which is the caller's own.

    For processes that never act for a user: the workers and the unprivileged programs.
    """
    old_uid, old_gid = os.getuid(), os.getgid()
    if old_uid not in (0, account.uid):
        raise PermissionError(errno.EPERM, f"only root can become {account.name}")
    if old_uid == 0:
        syscalls.drop_bounding_set()
        set_groups(account)
        set_gid(account)
        set_uid(account)
        prove_irreversible(account, old_uid, old_gid)
    syscalls.capset_none()
    syscalls.set_no_new_privs()
