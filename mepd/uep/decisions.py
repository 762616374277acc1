"""What a task's past makes of its delivery."""

from __future__ import annotations

import enum
from dataclasses import dataclass

from mepd.uep.journal import Past


class Action(enum.Enum):
    """What to do with a delivery."""

    JOIN = "join"  # it is here already: ack it with its result
    ACK = "ack"  # its result was sent: nothing is left to do
    SEND = "send"  # its result waits on disk
    LOST = "lost"  # it had begun when the endpoint died
    RUN = "run"


def decide(known: bool, stored: bool, past: Past, retry_lost: bool) -> Action:
    """What a task's past makes of its delivery; all but RUN happen on redeliveries only."""
    if known:
        return Action.JOIN
    if stored:
        return Action.SEND
    if past is Past.FINISHED:
        return Action.ACK
    return Action.LOST if past is Past.BEGUN and not retry_lost else Action.RUN


@dataclass(frozen=True)
class TaskPolicy:
    """``allowed_functions`` None: every function may run."""

    endpoint_id: str
    allowed_functions: frozenset[str] | None = None
    retry_lost: bool = False
