"""The table of UEPs: what the master knows of each child."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from mepd.config.launchplan import CredentialFile
from mepd.master.channel import Channel
from mepd.master.loop import Timer
from mepd.model import Activity, StartRequest, UepState
from mepd.posix.process import ProcessId
from mepd.wire.stages import Failed


@dataclass(eq=False)
class Uep:
    """One user endpoint. ``child`` is the master's own child: the UEP, or its session process.

    ``process`` is the UEP itself; the two differ only with PAM. Times are of the loop's
    clock, in seconds. It has ``execed`` when that was told, and is ``ready`` since its first
    report. ``tokens`` are the deliveries that wait for the outcome; its request
    ``comes_again`` when they died with their consumer.
    ``revive`` is a later request, kept until ``revive_until``. ``audit`` is the reading end of
    its tasks' audit records, for the log at ``audit_path``; ``audit_told``: the audit-writer
    has it. ``file`` is where it finds refreshed credentials.
    """

    name: str
    endpoint: str
    request: StartRequest
    child: ProcessId
    process: ProcessId
    command: str
    started: float
    state: UepState = UepState.LAUNCHING
    user: str = ""
    uid: int = -1
    reports: bool = True
    execed: bool = False
    ready: bool = False
    tokens: set[str] = field(default_factory=set)
    comes_again: bool = False
    stages: Channel | None = None
    notify: Channel | None = None
    lifeline: socket.socket | None = None
    file: CredentialFile | None = None
    audit: socket.socket | None = None
    audit_path: Path | None = None
    audit_told: bool = False
    activity: Activity | None = None
    reported: float = 0.0
    failure: Failed | None = None
    stop_reason: str = ""
    timers: list[Timer] = field(default_factory=list)
    revive: StartRequest | None = None
    revive_until: float = 0.0

    @property
    def label(self) -> str:
        """``[(user, name) command]`` as the manual's log lines end."""
        return f"[({self.user}, {self.name}) {self.command}]"

    @property
    def about(self) -> dict[str, str]:
        """``extra`` for log lines about this UEP, so that each tells whom it is about."""
        return {"uep": self.name, "user": self.user}

    def release(self) -> None:
        """Close every descriptor and cancel every timer of this entry."""
        for channel in (self.stages, self.notify):
            if channel is not None:
                channel.close()
        for sock in (self.lifeline, self.audit):
            if sock is not None:
                sock.close()
        if self.file is not None:
            os.close(self.file.fd)
            self.file = None
        for timer in self.timers:
            timer.cancel()
        self.stages = self.notify = self.lifeline = self.audit = None
        self.timers.clear()


class UepTable:
    """UEPs by name; a name is there from its fork until its process has been reaped."""

    def __init__(self) -> None:
        self._by_name: dict[str, Uep] = {}

    def add(self, uep: Uep) -> None:
        self._by_name[uep.name] = uep

    def remove(self, uep: Uep) -> None:
        if self._by_name.get(uep.name) is uep:
            del self._by_name[uep.name]

    def get(self, name: str) -> Uep | None:
        return self._by_name.get(name)

    def __iter__(self) -> Iterator[Uep]:
        return iter(list(self._by_name.values()))

    def __len__(self) -> int:
        return len(self._by_name)

    def count_of_user(self, uid: int, besides: Uep) -> int:
        return sum(1 for u in self._by_name.values() if u.uid == uid and u is not besides)
