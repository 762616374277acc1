"""Which accounts mepd.conf lets run a UEP, as a value for the launch child."""

from __future__ import annotations

from collections.abc import Iterable

from mepd.config import logindefs
from mepd.config.launchplan import AccountPolicy
from mepd.config.settings import Settings
from mepd.posix import accounts


def _gids(settings: Settings) -> tuple[int, ...] | None:
    """The groups of ``allow_groups``; None if it is not set. Raises ConfigError."""
    names = settings.mepd.allow_groups
    try:
        return tuple(accounts.group_id(name) for name in names) if names else None
    except KeyError as e:
        raise settings.error("[mepd] allow_groups", f": {e.args[0]}") from None


def _program_uid(settings: Settings, name: str, user: str) -> int:
    try:
        return accounts.lookup(user).uid
    except KeyError:
        raise settings.error(
            f"[program:{name}] user", f" = {user}: there is no such account"
        ) from None


def account_policy(
    settings: Settings, own_uids: Iterable[int], own_gids: Iterable[int] = ()
) -> AccountPolicy:
    """The policy; root, mepd's own accounts and those of programs are never served.

    Nor is who shares the primary group of one of mepd's own.

    Raises ConfigError, also for an account or group that does not exist.
    """
    section = settings.mepd
    own = {0, *own_uids}
    for program in settings.programs:
        if program.user:
            own.add(_program_uid(settings, program.name, program.user))
    return AccountPolicy(
        min_uid=logindefs.uid_min() if section.min_uid is None else section.min_uid,
        deny_users=section.deny_users,
        allow_gids=_gids(settings),
        forbidden_uids=tuple(sorted(own)),
        forbidden_gids=tuple(sorted({0, *own_gids})),
        name_pattern=section.mapped_name_pattern,
    )
