"""Which UEPs a word on mepctl's command line means. Pure."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence

from mepd.errors import ControlError
from mepd.master.table import Uep

PREFIX_MIN = 2
_NAMED_MAX = 10


def fits(target: str, uep: Uep) -> bool:
    """A pid, or the beginning (two characters at least) of an id or a name."""
    if target == str(uep.process.pid):
        return True
    begins = len(target) >= PREFIX_MIN and target.lower()
    return bool(begins) and (
        uep.request.uep_id.startswith(str(begins)) or uep.name.startswith(str(begins))
    )


def describe(uep: Uep) -> str:
    who = uep.user or "nobody yet"
    return f"{uep.request.uep_id} ({who}, pid {uep.process.pid})"


def of_target(visible: Iterable[Uep], target: str) -> list[Uep]:
    """All that a target fits, at least one; a whole id or name means that one only.

    Raises ControlError.
    """
    found = [u for u in visible if fits(target, u)]
    exact = [u for u in found if target.lower() in (u.request.uep_id, u.name)]
    if not found:
        hint = "; write two characters at least" if len(target) < PREFIX_MIN else ""
        raise ControlError(
            f"no user endpoint matches {target[:80]!r}{hint}; see mepctl list", os.EX_UNAVAILABLE
        )
    return exact or found


def choose(visible: Sequence[Uep], targets: Iterable[str], ambiguous: bool) -> list[Uep]:
    """The UEPs that the targets name, each once.

    A target that fits more than one is an error that names them, unless ``ambiguous``:
    then all are meant. Raises ControlError.
    """
    chosen: list[Uep] = []
    for target in targets:
        found = of_target(visible, target)
        if len(found) > 1 and not ambiguous:
            raise ControlError(_which(target, found), os.EX_USAGE)
        chosen += [u for u in found if u not in chosen]
    return chosen


def _which(target: str, found: Sequence[Uep]) -> str:
    named = ", ".join(describe(u) for u in found[:_NAMED_MAX])
    more = f" and {len(found) - _NAMED_MAX} more" if len(found) > _NAMED_MAX else ""
    return (
        f"{target[:80]!r} fits {len(found)} user endpoints: {named}{more};"
        " write more of the id, or say --yes to mean all"
    )


def one(visible: Sequence[Uep], target: str) -> Uep:
    """The only UEP that a target fits. Raises ControlError."""
    found = of_target(visible, target)
    if len(found) > 1:
        text = _which(target, found).partition("; write more")[0]
        raise ControlError(f"{text}; write more of the id", os.EX_USAGE)
    return found[0]
