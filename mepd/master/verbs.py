"""The verbs of the control protocol: a closed table, each with who may use it.

Root and the members of the group of ``[control] chown`` may everything; any other user
sees and ends only their own UEPs.
"""

from __future__ import annotations

import os
from typing import Any, Protocol

from mepd.errors import ControlError
from mepd.master import acting, looking, steering
from mepd.master.asking import Caller, Verb, check_arguments, is_administrator
from mepd.posix.peer import Peer


class Commander(looking.Commander, acting.Commander, steering.Commander, Protocol):
    """What the verbs need of the master."""


class Verbs:
    """Dispatches requests; every verb is named in one of the three tables and nowhere else."""

    def __init__(self, commander: Commander, group: int | None) -> None:
        self._group = group
        self._table: dict[str, Verb] = {
            **looking.Looking(commander).table(),
            **acting.Acting(commander).table(),
            **steering.Steering(commander).table(),
        }

    def is_administrator(self, peer: Peer) -> bool:
        return is_administrator(peer, self._group)

    def handle(self, peer: Peer, verb: str, args: dict[str, Any]) -> Any:
        """Data, a Later or a Stream. Raises ControlError."""
        if verb not in self._table:
            raise ControlError(f"unknown verb {verb[:40]!r}", os.EX_USAGE)
        entry = self._table[verb]
        caller = Caller(peer, self.is_administrator(peer))
        if entry.restricted and not caller.administrator:
            raise ControlError(
                f"{verb}: only root and the group of [control] chown may; uid {peer.uid} is not"
                " of them", os.EX_NOPERM,
            )  # fmt: skip
        check_arguments(args, entry.arguments)
        return entry.handler(caller, args)
