"""Who asks, and what a request may hold: typed, closed, refused with a word of why."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any

from mepd.errors import ControlError
from mepd.master.table import Uep
from mepd.posix.groups import LocalGroups
from mepd.posix.peer import Peer


@dataclass(frozen=True)
class Caller:
    """The account that asks; an administrator may everything."""

    peer: Peer
    administrator: bool

    def owns(self, uid: int) -> bool:
        """Whether what belongs to ``uid`` is this caller's to see and to end."""
        return self.administrator or uid == self.peer.uid

    @property
    def reason(self) -> str:
        """For the log: why something ends."""
        return f"by uid {self.peer.uid}"


Handler = Callable[[Caller, dict[str, Any]], Any]


@dataclass(frozen=True)
class Verb:
    """One verb: its handler, the arguments it knows, and whether it is for administrators."""

    handler: Handler
    arguments: tuple[str, ...] = ()
    restricted: bool = False


_local = LocalGroups()
_TEXTS_MAX = 1000
"""Each is looked up by the master's loop."""


def is_administrator(peer: Peer, group: int | None) -> bool:
    """Whether the peer is root, mepd's own account or in the administrators' group.

    In the group is a process that the kernel says is, and an account that the system's own
    files say is now.
    """
    if peer.uid in (0, os.geteuid()):
        return True
    if group is None:
        return False
    return group in (peer.gid, *peer.groups) or _local.has(peer.uid, group)


def text(args: dict[str, Any], key: str) -> str | None:
    value = args.get(key)
    if value is not None and not isinstance(value, str):
        raise ControlError(f"{key} must be a string", os.EX_USAGE)
    return value


def needed(args: dict[str, Any], key: str) -> str:
    value = text(args, key)
    if not value:
        raise ControlError(f"{key} is missing", os.EX_USAGE)
    return value


def flag(args: dict[str, Any], key: str) -> bool:
    value = args.get(key, False)
    if not isinstance(value, bool):
        raise ControlError(f"{key} must be true or false", os.EX_USAGE)
    return value


def texts(args: dict[str, Any], key: str) -> list[str]:
    value = args.get(key) or []
    if not isinstance(value, list) or not all(isinstance(v, str) and v for v in value):
        raise ControlError(f"{key} must be a list of strings", os.EX_USAGE)
    if len(value) > _TEXTS_MAX:
        raise ControlError(f"{key} has {len(value)} words; at most {_TEXTS_MAX}", os.EX_USAGE)
    return value


def number(args: dict[str, Any], key: str) -> float | None:
    value = args.get(key)
    if value is not None and (type(value) not in (int, float) or not 0 <= value < 1e12):
        raise ControlError(f"{key} must be a number that is not negative", os.EX_USAGE)
    return None if value is None else float(value)


def check_arguments(args: dict[str, Any], known: Collection[str]) -> None:
    unknown = sorted(args.keys() - set(known))
    if unknown:
        raise ControlError(f"unknown argument {unknown[0][:40]!r}", os.EX_USAGE)


def wanted(args: dict[str, Any]) -> Callable[[Uep], bool]:
    """Which UEPs pass the filters ``user`` (a name or a uid), ``endpoint`` and ``states``.

    Raises ControlError.
    """
    user, endpoint, states = text(args, "user"), text(args, "endpoint"), texts(args, "states")

    def passes(uep: Uep) -> bool:
        return (
            (user is None or user in (uep.user, str(uep.uid)))
            and (endpoint is None or endpoint in (uep.endpoint, uep.request.mep_id))
            and (not states or uep.state.value in states)
        )

    return passes
