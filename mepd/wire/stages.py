"""Messages between the master and a launch child."""

from __future__ import annotations

from dataclasses import dataclass

from mepd.wire.activity import Refreshed


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
    """Go on, or leave: ``reason`` says which rule refused.

    With ``refresh``: write the request's credentials for the UEP that runs, and leave.
    """

    go: bool
    reason: str = ""
    refresh: bool = False


FROM_LAUNCH = (Mapped, Failed, SessionOpened, Refreshed)
TO_LAUNCH = (Verdict,)
