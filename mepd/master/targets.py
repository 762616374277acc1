"""Which UEPs a word on mepctl's command line means. Pure."""

from __future__ import annotations

import os
from bisect import bisect_left
from collections.abc import Iterable, Sequence

from mepd.errors import ControlError
from mepd.master.table import Uep

PREFIX_MIN = 2
_NAMED_MAX = 10


def describe(uep: Uep) -> str:
    who = uep.user or "nobody yet"
    return f"{uep.request.uep_id} ({who}, pid {uep.process.pid})"


class Index:
    """UEPs by what means them: anybody may ask for many targets, and not each of them is to be
    compared with each UEP, by the master's loop."""

    def __init__(self, visible: Sequence[Uep]) -> None:
        self._ueps = visible
        self._pids = {str(u.process.pid): number for number, u in enumerate(visible)}
        self._words = sorted(
            (word, number)
            for number, u in enumerate(visible)
            for word in (u.request.uep_id, u.name)
        )

    def fitting(self, target: str) -> list[Uep]:
        """Those with this pid, or whose id or name begins so, by two characters at least."""
        found = {self._pids[target]} if target in self._pids else set()
        begins = target.lower()
        at = bisect_left(self._words, (begins,)) if len(target) >= PREFIX_MIN else len(self._words)
        while at < len(self._words) and self._words[at][0].startswith(begins):
            found.add(self._words[at][1])
            at += 1
        return [self._ueps[number] for number in sorted(found)]


def of_target(index: Index, target: str) -> list[Uep]:
    """All that a target fits, at least one; a whole id or name means that one only.

    Raises ControlError.
    """
    found = index.fitting(target)
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
    index = Index(visible)
    chosen: dict[Uep, None] = {}
    for target in {t.lower(): t for t in targets}.values():
        found = of_target(index, target)
        if len(found) > 1 and not ambiguous:
            raise ControlError(_which(target, found), os.EX_USAGE)
        chosen.update(dict.fromkeys(found))
    return list(chosen)


def _which(target: str, found: Sequence[Uep]) -> str:
    named = ", ".join(describe(u) for u in found[:_NAMED_MAX])
    more = f" and {len(found) - _NAMED_MAX} more" if len(found) > _NAMED_MAX else ""
    return (
        f"{target[:80]!r} fits {len(found)} user endpoints: {named}{more};"
        " write more of the id, or say --yes to mean all"
    )


def one(visible: Sequence[Uep], target: str) -> Uep:
    """The only UEP that a target fits. Raises ControlError."""
    found = of_target(Index(visible), target)
    if len(found) > 1:
        text = _which(target, found).partition("; write more")[0]
        raise ControlError(f"{text}; write more of the id", os.EX_USAGE)
    return found[0]
