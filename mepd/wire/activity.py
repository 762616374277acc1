"""Messages between a UEP and the master, on NOTIFY_FD."""

from __future__ import annotations

from dataclasses import dataclass


# --- UEP -> master --------------------------------------------------------------------
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


# --- master -> UEP, and launch child -> master ----------------------------------------
@dataclass(frozen=True)
class Refreshed:
    """The UEP's CredentialFile has new contents."""


FROM_UEP = (ActivityReport,)
TO_UEP = (Refreshed,)
