"""Resource limits (setrlimit(2)), by the names of limits.conf(5)."""

from __future__ import annotations

import resource
from collections.abc import Collection, Iterable
from dataclasses import dataclass

UNLIMITED = resource.RLIM_INFINITY
_USUAL_NOFILE = 1024
RESOURCES = {
    "as": resource.RLIMIT_AS,
    "core": resource.RLIMIT_CORE,
    "cpu": resource.RLIMIT_CPU,
    "data": resource.RLIMIT_DATA,
    "fsize": resource.RLIMIT_FSIZE,
    "memlock": resource.RLIMIT_MEMLOCK,
    "msgqueue": resource.RLIMIT_MSGQUEUE,
    "nofile": resource.RLIMIT_NOFILE,
    "nproc": resource.RLIMIT_NPROC,
    "rss": resource.RLIMIT_RSS,
    "rtprio": resource.RLIMIT_RTPRIO,
    "sigpending": resource.RLIMIT_SIGPENDING,
    "stack": resource.RLIMIT_STACK,
}


@dataclass(frozen=True)
class Limit:
    """``soft`` and ``hard`` in the unit of setrlimit(2): bytes, seconds or a number."""

    name: str
    soft: int
    hard: int


def no_core_dumps() -> None:
    """RLIMIT_CORE 0 for this process and what it execs."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def no_core_dumps_yet() -> None:
    """A soft limit of 0; the hard one is left for :func:`apply`."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))


def usual_descriptors() -> None:
    """The soft limit that programs expect, whatever the daemon was given for its sockets.

    Above it select(2) fails, and programs that close all descriptors take long.
    """
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    soft = _USUAL_NOFILE if hard == UNLIMITED else min(_USUAL_NOFILE, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def apply(limits: Collection[Limit]) -> None:
    """Set each; core dumps are for :func:`allow_core`: the caller's memory holds secrets.

    Raises OSError that names the limit.
    """
    if all(limit.name != "core" for limit in limits):
        no_core_dumps()
    for limit in limits:
        soft = 0 if limit.name == "core" else limit.soft
        _set(limit.name, soft, limit.hard)


def allow_core(limits: Iterable[Limit]) -> None:
    """The soft limit of core dumps that :func:`apply` kept back. Raises OSError."""
    for limit in limits:
        if limit.name == "core":
            _set(limit.name, limit.soft, limit.hard)


def _set(name: str, soft: int, hard: int) -> None:
    try:
        resource.setrlimit(RESOURCES[name], (soft, hard))
    except (OSError, ValueError) as e:  # Python's ValueError is the kernel's EPERM or EINVAL
        raise OSError(f"limit {name}: {e}") from None
