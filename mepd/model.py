"""Plain values shared by all processes: frozen dataclasses and enums, no behaviour."""

from __future__ import annotations

import enum
import re
from dataclasses import dataclass, field
from typing import Any

UEP_NAME = re.compile(
    r"uep\.([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})"
    r"\.([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})"
)

AUDIT_FD = 4
"""The descriptor for audit records of tasks, where the endpoint has an audit log."""
NOTIFY_FD = 5
"""The descriptor on which a UEP reports to mepd; its end of file means that mepd is gone."""
CREDENTIALS_FD = 6
"""The descriptor of the memory file in which a UEP finds refreshed broker credentials."""


class Stage(enum.IntEnum):
    """Stages of a start; the value is the exit code of a child that fails there.

    71 and 77 are shown to users by the administrator's manual; the others follow the
    order of the steps.
    """

    PREPARE = 70
    HOST_AUTH = 71
    INITGROUPS = 72
    SETUID = 73
    REGAIN = 74
    SETSID = 75
    UMASK = 76
    TEMPLATE = 77
    CHDIR = 78
    CONFIG = 79
    DESCRIPTORS = 80
    STDIN = 82
    LOG = 84
    PARENT = 86
    EXEC = 87


class UepState(str, enum.Enum):
    """Life of one user endpoint as the master sees it."""

    LAUNCHING = "LAUNCHING"  # forked; the launch child has not yet exec'ed
    STARTING = "STARTING"  # exec confirmed; no report yet
    RUNNING = "RUNNING"  # first report seen
    STOPPING = "STOPPING"  # signalled; waiting for its end
    GONE = "GONE"


class ProgramState(str, enum.Enum):
    """States of workers and programs in supervisord's terms."""

    STOPPED = "STOPPED"
    STARTING = "STARTING"
    RUNNING = "RUNNING"
    BACKOFF = "BACKOFF"
    STOPPING = "STOPPING"
    EXITED = "EXITED"
    FATAL = "FATAL"


@dataclass(frozen=True)
class StartRequest:
    """A validated request to start one user endpoint.

    ``identity_set`` holds the linked identities of the person, as the service sent them.
    ``amqp_creds`` never appears in a repr.
    """

    name: str
    mep_id: str
    uep_id: str
    effective_identity: str
    username: str
    identity_set: tuple[dict[str, Any], ...]
    timestamp: int
    amqp_creds: dict[str, Any] = field(repr=False)
    user_opts: dict[str, Any] = field(default_factory=dict)
    user_runtime: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Activity:
    """What a UEP reports of itself every heartbeat.

    Counts are tasks since its start; ``last_move`` is seconds since a task or result
    last moved; ``soft`` and ``hard`` are its idle limits in heartbeats (0: never).
    """

    received: int = 0
    outstanding: int = 0
    done: int = 0
    last_move: float = 0.0
    soft: int = 0
    hard: int = 0
    heartbeat_period: float = 30.0
    closing: bool = False
