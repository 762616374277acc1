"""The two workers: started, listened to, restarted with backoff when they die."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from mepd.errors import WireError
from mepd.master import decisions, spawner
from mepd.master.channel import Channel
from mepd.master.lines import LineReader
from mepd.master.loop import Loop, Timer
from mepd.master.reaper import Reaper
from mepd.master.states import describe_end
from mepd.model import ProgramState
from mepd.posix import process
from mepd.posix.accounts import Account
from mepd.posix.process import ProcessId
from mepd.wire import codec
from mepd.wire.worker import Ping, Pong, Ready, Stop

log = logging.getLogger(__name__)

_FATAL_AFTER = 8
_STOP_PATIENCE = 1.0
PING_EVERY = 20.0
UNANSWERED_MAX = 3
"""A check of a large folder may keep the watcher for some seconds."""


class Worker:
    """One worker process and its successors.

    ``on_message`` gets what it sends, ``on_up`` is called when it is ready and ``on_down``
    when it has died or, with ``replacing``, made room. A worker in a crash loop is shown as
    FATAL and still tried every 30 s: without it nobody can start anything, but what runs
    goes on. One that is stopped or hangs is killed, and so replaced.
    """

    def __init__(
        self,
        loop: Loop,
        reaper: Reaper,
        name: str,
        entry: str,
        account: Account,
        accepts: tuple[type, ...],
        argument: Callable[[], Any] | None = None,
    ) -> None:
        self.name = name
        self.state = ProgramState.STOPPED
        self.process: ProcessId | None = None
        self.since = loop.clock()
        self.restarts = 0
        self.replacing = False
        self.on_message: Callable[[Any], None] = lambda _: None
        self.on_up: Callable[[], None] = lambda: None
        self.on_down: Callable[[], None] = lambda: None
        self._loop = loop
        self._reaper = reaper
        self._entry = entry
        self._account = account
        self._accepts = accepts
        self._argument = argument
        self._channel: Channel | None = None
        self._lines: LineReader | None = None
        self._retry: Timer | None = None
        self._failures = 0
        self._refusal = ""
        self._unanswered = 0
        self._ready_since = 0.0
        self._stopping = False

    def start(self) -> None:
        title = f"mepd: {self.name}"
        argument = self._argument() if self._argument else None
        self.since = self._loop.clock()
        try:
            spawned = spawner.worker(
                title, self._entry, self._account, argument, self._argument is None
            )
        except OSError as e:
            self._refused(str(e))
            return
        self._refusal = ""
        self.state = ProgramState.STARTING
        self._ready_since = 0.0
        self.process = process.identify(spawned.pid) or ProcessId(spawned.pid, 0.0)
        self._lines = LineReader(self._loop, spawned.stderr, title, spawned.pid)
        self._channel = Channel(self._loop, spawned.sock, self._on_frame, self._on_closed)
        self._reaper.watch(spawned.pid, self._ended)
        self._unanswered = 0
        self._ping(self.process)

    def send(self, message: Any) -> bool:
        """Give the worker a message; False if there is no worker."""
        if self._channel is None or not self._channel.is_open:
            return False
        self._channel.send_message(message)
        return True

    def restart(self) -> None:
        """End the present process; the next one follows at once, with a new argument."""
        if self.process is not None and not self._stopping:
            self.replacing = True
            self.send(Stop())
            victim = self.process
            self._loop.call_later(_STOP_PATIENCE, lambda: self._kill(victim))

    def stop(self) -> None:
        """End it for good."""
        self._stopping = True
        if self._retry is not None:
            self._retry.cancel()
        if self.process is None:
            self.state = ProgramState.STOPPED
            return
        self.state = ProgramState.STOPPING
        self.send(Stop())
        victim = self.process
        self._loop.call_later(_STOP_PATIENCE, lambda: self._kill(victim))

    def _kill(self, victim: ProcessId) -> None:
        if self.process == victim:
            process.kill_tree(victim)

    def _on_frame(self, frame: Any) -> None:
        message: Any = codec.decode(frame, self._accepts)
        self._unanswered = 0
        if isinstance(message, Pong):
            return
        if isinstance(message, Ready):
            if self._ready_since:
                raise WireError("it was ready already")
            self.state = ProgramState.RUNNING
            self._ready_since = self._loop.clock()
            log.info("%s is ready (pid: %d)", self.name, self.process.pid if self.process else 0)
            self.on_up()
        else:
            self.on_message(message)

    def _ping(self, which: ProcessId) -> None:
        """Ask the process now and then; in the turn after the last unanswered one, kill it."""
        if self.process != which or self._stopping:
            return
        if self._unanswered >= UNANSWERED_MAX:
            log.error(
                "%s has not answered for %.0f s (pid: %d): killed",
                self.name, UNANSWERED_MAX * PING_EVERY, which.pid,
            )  # fmt: skip
            process.kill_tree(which)
            return
        self._unanswered += 1
        self.send(Ping())
        self._loop.call_later(PING_EVERY, lambda: self._ping(which))

    def _on_closed(self, reason: str) -> None:
        """It died, or said something that no worker of ours says: then it is killed."""
        if reason:
            log.error("%s broke the protocol: %s", self.name, reason)
        if self.process is not None:
            process.kill_tree(self.process)

    def _ended(self, status: int) -> None:
        if self._channel is not None:
            self._channel.drain()
            self._channel.close()
        if self._lines is not None:
            self._lines.close()
        pid = self.process.pid if self.process else 0
        self._channel, self._lines, self.process = None, None, None
        if self._stopping:
            self.state = ProgramState.STOPPED
            return
        if self.replacing:
            self.on_down()
            self.replacing = False
            self.start()
            return
        log.warning("%s ended (pid: %d): %s", self.name, pid, describe_end(status))
        self.on_down()
        self._again()

    def _refused(self, why: str) -> None:
        """The system has no process or descriptor left: tried until it has."""
        if why != self._refusal:
            log.error("cannot fork mepd: %s: %s", self.name, why)
        self._refusal = why
        self.state = ProgramState.BACKOFF
        self._retry = self._loop.call_later(decisions.REFUSED_AGAIN, self.start)

    def _again(self) -> None:
        ready_for = self._loop.clock() - self._ready_since if self._ready_since else 0.0
        if ready_for > decisions.STABLE_AFTER:
            self._failures = 0
        self._ready_since = 0.0
        self._failures += 1
        self.restarts += 1
        fatal = self._failures >= _FATAL_AFTER
        self.state = ProgramState.FATAL if fatal else ProgramState.BACKOFF
        delay = decisions.BACKOFF_MAX if fatal else decisions.backoff(self._failures - 1)
        log.log(
            logging.CRITICAL if fatal else logging.INFO,
            "%s is started again in %.1f s (%d failures in a row)",
            self.name, delay, self._failures,
        )  # fmt: skip
        self._retry = self._loop.call_later(delay, self.start)
