"""What ps(1) shows of a user endpoint."""

from __future__ import annotations

from mepd.model import UEP_NAME


def short_name(name: str) -> str:
    """``uep.4ade....e909...`` as ``4ade../e909..``; any other name as it is."""
    match = UEP_NAME.fullmatch(name)
    if match is None:
        return name
    return f"{match[1][:4]}../{match[2][:4]}.."


def activity(running: int, outstanding: int, done: int, beats: int, soft: int) -> str:
    """The changing part: ``2 running, 14 done``, or ``idle 3/10`` in heartbeats."""
    if outstanding:
        return f"{running} running, {done} done"
    if soft:
        return f"idle {min(beats, soft)}/{soft}"
    return f"idle, {done} done"


def title(user: str, name: str, state: str) -> str:
    return f"mepd-uep {user} {short_name(name)} {state}"
