"""Which mapped names and accounts may run a UEP. Pure."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping

from mepd.config.launchplan import AccountPolicy
from mepd.posix.accounts import Account

_NOBODY = 65534
_NAME_MAX = 256  # LOGIN_NAME_MAX of Linux
_NEVER = re.compile(r"-|.*[\x00-\x20\x7f/:]", re.DOTALL)
_NO_ID = 2**32 - 1  # (uid_t)-1: setresuid(2) would keep the old id


def name_refusal(name: str, policy: AccountPolicy) -> str | None:
    """Why a mapped name must not even be looked up; None if it is a plain user name.

    A site's own pattern may allow other letters, and more of them, but nothing that
    getpwnam(3), a path or a command line could take for something else.
    """
    shape = 0 < len(name) <= _NAME_MAX and _NEVER.match(name) is None
    if not shape or re.fullmatch(policy.name_pattern, name) is None:
        return f"mapped name {name[:64]!r} is not a plain user name"
    if name in policy.deny_users:
        return f"user {name!r} is in deny_users"
    return None


def denied_refusal(name: str, uid: int, denied: Mapping[int, str]) -> str | None:
    """Why an account must not run a UEP that is one of ``denied`` (names by uid) under a
    second name; None if it may."""
    if uid in denied:
        return f"user {name!r} has the uid of {denied[uid]!r}, which is in deny_users ({uid})"
    return None


def group_refusal(name: str, groups: Collection[int], policy: AccountPolicy) -> str | None:
    """Why an account with these groups must not run a UEP; None if it may."""
    if policy.allow_gids is not None and not set(policy.allow_gids) & set(groups):
        return f"user {name!r} is in none of allow_groups"
    return None


def account_refusal(asked: str, account: Account, policy: AccountPolicy) -> str | None:
    """Why an account must not run a UEP; None if it may."""
    if account.name != asked:
        return f"asked for user {asked!r}, the system answered {account.name!r}"
    if account.uid == 0:
        return f"user {asked!r} has uid 0"
    if account.gid == 0:
        return f"user {asked!r} has primary gid 0"
    for label, number in (("uid", account.uid), ("gid", account.gid)):
        if number in (_NOBODY, _NO_ID) or number < 0:
            return f"user {asked!r} has {label} {number}"
    if account.uid in policy.forbidden_uids:
        return f"user {asked!r} has a uid that belongs to mepd itself ({account.uid})"
    if account.gid in policy.forbidden_gids:
        return f"user {asked!r} has a primary gid that belongs to mepd itself ({account.gid})"
    if account.uid < policy.min_uid:
        return f"user {asked!r} has uid {account.uid}, below min_uid {policy.min_uid}"
    return None
