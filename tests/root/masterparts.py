"""The master without its network workers: starts, stops and ends of real launch children."""

from __future__ import annotations

import dataclasses
import os
import signal
import time
from collections.abc import Callable
from typing import Any

from mepd import log as mepdlog
from mepd.config.launchplan import AccountPolicy
from mepd.config.settings import EndpointSnapshot
from mepd.master.consumer import ConsumerLink
from mepd.master.endpoints import Endpoint
from mepd.master.ends import Ends
from mepd.master.loop import Loop
from mepd.master.reaper import Reaper
from mepd.master.starts import StartRules, Starts
from mepd.master.stopping import Stopper
from mepd.master.table import Uep, UepTable
from mepd.model import StartRequest
from mepd.posix import descriptors, syscalls
from mepd.wire import start_request
from mepd.wire.worker import NoticeDone, SendNotice, Settle, StartRequested

# A UEP that reports itself ready and then does as the test says.
REPORTER = """
import json, os, signal, socket, struct, sys, time
s = socket.socket(fileno=5)
def report(**changes):
    values = dict(kind="ActivityReport", received=0, outstanding=0, done=0, last_move=0.0,
                  soft=10, hard=5760, heartbeat_period=30.0, closing=False)
    body = json.dumps({**values, **changes}).encode()
    s.sendall(struct.pack(">I", len(body)) + body)
"""


class Harness:
    """A master's loop whose consumer is a list of what it was told."""

    def __init__(self, snapshot: EndpointSnapshot, **rules: Any) -> None:
        syscalls.set_subreaper()
        descriptors.keep_spare()
        self.loop = Loop()
        self.reaper = Reaper()
        self.loop.on_signal(signal.SIGCHLD, self.reaper.collect)
        self.table = UepTable()
        self.settled: list[str] = []
        self.notices: list[SendNotice] = []
        self.link = ConsumerLink(self._send)
        self.endpoint = Endpoint(snapshot, snapshot.endpoint_id)
        find: Callable[[str], Endpoint | None] = {snapshot.name: self.endpoint}.get
        self.stopper = Stopper(self.loop, self.table, 1.0)
        self.ends = Ends(self.loop, self.reaper, self.table, self.link, find)
        base = StartRules(AccountPolicy(min_uid=1000), 0, 0, 30.0, True)
        records = mepdlog.RecordChannel()
        self.loop.watch(records.reader.fileno(), records.drain)
        self.starts = Starts(
            self.loop, self.reaper, self.table, self.link, self.stopper, self.ends, records,
            dataclasses.replace(base, **rules), os.getpid(), find,
        )  # fmt: skip
        self._tokens = 0

    def _send(self, message: Any) -> bool:
        if isinstance(message, Settle):
            self.settled.append(message.token)
        elif isinstance(message, SendNotice):
            self.notices.append(message)
            done = NoticeDone(message.notice_id, True)
            self.loop.call_later(0.0, lambda: self.link.notice_done(done))
        return True

    def request(self, request: StartRequest) -> str:
        """Deliver a start request; its token."""
        self._tokens += 1
        token = f"t{self._tokens}"
        message = StartRequested(token, self.endpoint.name, start_request.to_json(request))
        self.starts.requested(message)
        return token

    def run_until(self, condition: Callable[[], Any], timeout: float = 30.0) -> None:
        deadline = time.monotonic() + timeout

        def look() -> None:
            if condition() or time.monotonic() > deadline:
                self.loop.stop()
            else:
                self.loop.call_later(0.005, look)

        self.loop.call_later(0.0, look)  # it may hold by now: stop() counts while the loop runs
        self.loop.run()
        assert condition(), "not in time"

    def uep(self) -> Uep:
        (only,) = list(self.table)
        return only

    def texts(self) -> list[str]:
        return [n.text for n in self.notices]

    def close(self) -> None:
        """Kill what is left."""
        self.starts.accepting = False
        for uep in self.table:
            self.stopper.kill(uep, "end of the test")
        self.run_until(lambda: not len(self.table))
        self.run_until(lambda: not self.reaper.strays())
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        syscalls.set_subreaper(False)
