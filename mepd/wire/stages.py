"""Messages between the master and a launch child, and from a UEP to the master."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


# --- launch child -> master -----------------------------------------------------------
@dataclass(frozen=True)
class Mapped:
    """The identity is mapped and the account exists; the child waits for the verdict."""

    user: str
    uid: int
    gid: int
    matched_identity: str


@dataclass(frozen=True)
class Failed:
    """The start failed: ``reason`` for the log, ``public`` for the user."""

    stage: str
    code: int
    reason: str
    public: str


@dataclass(frozen=True)
class SessionOpened:
    """PAM only: the sender stays as the session process, ``pid`` goes on to be the UEP."""

    pid: int


# --- master -> launch child -----------------------------------------------------------
@dataclass(frozen=True)
class Verdict:
    """Go on, or leave: ``reason`` says which rule refused."""

    go: bool
    reason: str = ""


# --- UEP -> master, on NOTIFY_FD ------------------------------------------------------
@dataclass(frozen=True)
class ActivityReport:
    """First one: the UEP is ready. See mepd.model.Activity for the fields."""

    received: int
    outstanding: int
    done: int
    last_move: float
    soft: int
    hard: int
    heartbeat_period: float
    closing: bool = False


# --- master -> UEP, on NOTIFY_FD ------------------------------------------------------
@dataclass(frozen=True)
class Credentials:
    """Refreshed broker credentials, in the form of the start request."""

    amqp_creds: dict[str, Any] = field(repr=False)


FROM_LAUNCH = (Mapped, Failed, SessionOpened)
TO_LAUNCH = (Verdict,)
FROM_UEP = (ActivityReport,)
TO_UEP = (Credentials,)
