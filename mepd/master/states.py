"""The life of a UEP as a table: state and event to next state. Pure."""

from __future__ import annotations

import enum
import os

from mepd.model import UepState


class Event(enum.Enum):
    EXECED = "execed"  # the launch child became the UEP
    REPORTED = "reported"  # the UEP reported itself ready
    STOP = "stop"  # mepd decided to end it
    DIED = "died"  # its process was reaped


_TABLE = {
    (UepState.LAUNCHING, Event.EXECED): UepState.STARTING,
    (UepState.LAUNCHING, Event.REPORTED): UepState.RUNNING,
    (UepState.LAUNCHING, Event.STOP): UepState.STOPPING,
    (UepState.STARTING, Event.REPORTED): UepState.RUNNING,
    (UepState.STARTING, Event.STOP): UepState.STOPPING,
    (UepState.RUNNING, Event.STOP): UepState.STOPPING,
}


def next_state(state: UepState, event: Event) -> UepState:
    """The state after ``event``; an event that means nothing in a state changes nothing."""
    if event is Event.DIED:
        return UepState.GONE
    return _TABLE.get((state, event), state)


def describe_end(status: int) -> str:
    """How a command ended, in the words of the administrator's manual.

    ``status`` is a wait status (wait(2)).
    """
    if os.WIFSIGNALED(status):
        return f"Command terminated by signal: {os.WTERMSIG(status)}"
    code = os.waitstatus_to_exitcode(status)
    return "Command stopped normally" if code == 0 else f"Command return code: {code}"


def ended_well(status: int) -> bool:
    return os.WIFEXITED(status) and os.WEXITSTATUS(status) == 0
