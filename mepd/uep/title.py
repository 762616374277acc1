"""What ps(1) shows of a user endpoint."""

from __future__ import annotations

_UUID = 36
"""Characters of a UUID."""


def short_name(name: str) -> str:
    """``uep.4ade....e909...`` as ``4ade../e909..``; any other name as it is."""
    parts = name.split(".")
    if parts[0] != "uep" or [len(part) for part in parts[1:]] != [_UUID, _UUID]:
        return name
    return f"{parts[1][:4]}../{parts[2][:4]}.."


def activity(running: int, outstanding: int, done: int, beats: int, soft: int) -> str:
    """The changing part: ``2 running, 14 done``, or ``idle 3/10`` in heartbeats."""
    if outstanding:
        return f"{running} running, {done} done"
    if soft:
        return f"idle {min(beats, soft)}/{soft}"
    return f"idle, {done} done"


def title(user: str, name: str, state: str) -> str:
    return f"mepd-uep {user} {short_name(name)} {state}"
