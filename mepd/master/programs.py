"""[program:x]: supervised with supervisord's states, start order and meanings."""

from __future__ import annotations

import logging
import os
import signal
import socket
from collections.abc import Callable
from pathlib import Path

from mepd.config.settings import ProgramSection
from mepd.master import decisions, program_child, spawner
from mepd.master.loop import Loop, Timer
from mepd.master.reaper import Reaper
from mepd.master.states import describe_end
from mepd.model import ProgramState
from mepd.posix import process
from mepd.posix.process import ProcessId

log = logging.getLogger(__name__)

_AGAIN_MIN = 1.0
"""Seconds between two starts of one that ends at once, and is to be called started so soon."""


class Program:
    """One program. STARTING becomes RUNNING after startsecs; an end before that is a
    failed start: BACKOFF, at most startretries times, then FATAL. One for which the system has
    no process left is no failed start: it is tried until it has."""

    def __init__(self, loop: Loop, reaper: Reaper, section: ProgramSection, log_dir: Path) -> None:
        self.section = section
        self.state = ProgramState.STOPPED
        self.description = "not started"
        self.process: ProcessId | None = None
        self.since = loop.clock()
        self.when_stopped: Callable[[], None] = lambda: None
        self._loop = loop
        self._reaper = reaper
        self._logfile = section.stdout_logfile or log_dir / f"program-{section.name}.log"
        self._lifeline: socket.socket | None = None
        self._timer: Timer | None = None
        self._failures = 0
        self._refusal = ""

    def start(self) -> None:
        if self.process is not None:
            return
        try:
            self._fork()
        except OSError as e:
            self._refused(str(e))
            return
        self._set(ProgramState.STARTING, "")
        self._later(self.section.startsecs, self._started)

    def start_anew(self) -> None:
        """Start on request: earlier failures do not count."""
        self._cancel()
        self._failures = 0
        self.start()

    def _fork(self) -> None:
        section = self.section
        ours, theirs = socket.socketpair()
        master = os.getpid()
        try:
            pid = spawner.program(
                f"mepd: program {section.name}",
                lambda: program_child.run(section, theirs, master),
                self._logfile,
                theirs,
            )
        except OSError:
            ours.close()
            raise
        finally:
            theirs.close()
        self._lifeline = ours
        self.process = process.identify(pid) or ProcessId(pid, 0.0)
        self._reaper.watch(pid, self._ended)
        log.info("program %s started (pid: %d)", section.name, pid)

    def stop(self, patience: float | None = None) -> None:
        """Ask it to end; its tree is killed after ``patience`` (default stopwaitsecs) seconds."""
        self._cancel()
        if self.process is None:
            self._set(ProgramState.STOPPED, "stopped")
            self.when_stopped()
            return
        self._set(ProgramState.STOPPING, "")
        process.signal_process(self.process, signal.SIGTERM)
        self._later(self.section.stopwaitsecs if patience is None else patience, self.kill)

    def kill(self) -> None:
        if self.process is not None:
            log.warning("program %s does not stop: killing it", self.section.name)
            process.kill_tree(self.process)

    def _started(self) -> None:
        self._failures, self._refusal = 0, ""
        self._set(ProgramState.RUNNING, "")
        log.info("program %s is running", self.section.name)

    def _ended(self, status: int) -> None:
        before = self.state
        self._cancel()
        word = self._last_word()
        how = word or describe_end(status)
        if self._lifeline is not None:
            self._lifeline.close()
        pid = self.process.pid if self.process else 0
        self._lifeline, self.process = None, None
        log.info("program %s: %s (%d)", self.section.name, how, pid)
        self._reaper.kill_strays()
        if before is ProgramState.STOPPING:
            self._set(ProgramState.STOPPED, how)
            self.when_stopped()
        elif word and os.waitstatus_to_exitcode(status) == program_child.REFUSED:
            self._refused(word)
        elif before is ProgramState.STARTING:
            self._failed(how)
        else:
            ran = self.section.startsecs + self._loop.clock() - self.since
            left = _AGAIN_MIN - ran
            self._set(ProgramState.EXITED, how)
            if self.section.autorestart and left > 0:
                self._later(left, self.start)
            elif self.section.autorestart:
                self.start()

    def _last_word(self) -> str:
        """Why its guard could not begin, if that is so."""
        if self._lifeline is None:
            return ""
        try:
            word = self._lifeline.recv(spawner.LAST_WORD_MAX, socket.MSG_DONTWAIT)
        except OSError:
            return ""
        return word.decode("utf-8", "replace")

    def _refused(self, why: str) -> None:
        if why != self._refusal:
            log.error("program %s: cannot start: %s", self.section.name, why)
        self._refusal = why
        self._set(ProgramState.BACKOFF, why)
        self._later(decisions.REFUSED_AGAIN, self.start)

    def _failed(self, how: str) -> None:
        self._failures += 1
        if self._failures > self.section.startretries:
            self._set(ProgramState.FATAL, f"{how}; gave up after {self._failures} tries")
            log.critical("program %s: %s", self.section.name, self.description)
            return
        self._set(ProgramState.BACKOFF, how)
        self._later(float(self._failures), self.start)

    def _set(self, state: ProgramState, description: str) -> None:
        self.state = state
        self.description = description
        self.since = self._loop.clock()

    def _later(self, delay: float, callback: object) -> None:
        assert callable(callback)
        self._cancel()
        self._timer = self._loop.call_later(delay, callback)

    def _cancel(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


def start_order(programs: list[Program]) -> list[Program]:
    """Lowest priority first, as supervisord."""
    return sorted(programs, key=lambda p: (p.section.priority, p.section.name))
