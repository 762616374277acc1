"""The master's log: lines go to the log-writer, a process that may wait for disks.

What the log-writer does not take at once waits here, up to a bound; what is beyond is
counted and lost. Nothing here ever blocks once the loop runs.
"""

from __future__ import annotations

import collections
import contextlib
import json
import logging
import os
import signal
import socket
import time
from pathlib import Path
from typing import Any

from mepd import log as mepdlog
from mepd.config.settings import MepdSection
from mepd.errors import WireError
from mepd.master import decisions, spawner, words
from mepd.master.loop import Loop
from mepd.master.reaper import Reaper
from mepd.master.states import describe_end
from mepd.posix.process import ProcessId, identify, signal_process

log = logging.getLogger(__name__)

TITLE = "mepd: log-writer"
_WAITING_MAX = 5000
_BEGIN_MAX = 10.0
_END_MAX = 1.0
_SEND_BUFFER = 1024 * 1024
_PUBLISH_MAX = 200_000
"""What goes into the socket at once, also where net.core.wmem_max is as small as it comes."""


class LogFailure(Exception):
    """The log cannot be opened; the text says which and why."""


class LogWriter(logging.Handler):
    """The handler of the master, and the process behind it.

    ``lost`` counts the lines that were not taken; ``alert`` is what the log-writer last
    said of a place that cannot be written.
    """

    def __init__(self, section: MepdSection) -> None:
        """Start the process and wait until it has opened the log. Raises LogFailure."""
        super().__init__()
        self.restarts = 0
        self.lost = 0
        self.alert = ""
        self.process: ProcessId | None = None
        self._section = section
        self._socket: socket.socket | None = None
        self._waiting: collections.deque[bytes] = collections.deque()
        self._to_publish = b""
        self._unsaid = 0
        self._blocked = False
        self._loop: Loop | None = None
        self._reaper: Reaper | None = None
        self._failures = 0
        self._closing = False
        self._ready = False
        try:
            self._fork()
        except OSError as e:
            raise LogFailure(f"cannot fork the log-writer: {e.strerror}") from None
        self._await_first_word()

    def _fork(self) -> None:
        """Raises OSError."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BUFFER)
            pid = spawner.log_writer(TITLE, theirs, self._section)
        except OSError:
            ours.close()
            raise
        finally:
            theirs.close()
        self._socket, self._ready = ours, False
        self.process = identify(pid) or ProcessId(pid, 0.0)

    def _await_first_word(self) -> None:
        assert self._socket is not None and self.process is not None
        self._socket.settimeout(_BEGIN_MAX)
        try:
            word = words.parse(self._socket.recv(words.SIZE_MAX) or b"{}")
        except (OSError, WireError):
            word = {"error": f"log {self._section.logfile}: cannot be opened in {_BEGIN_MAX:g} s"}
        if "ready" not in word:
            signal_process(self.process, signal.SIGKILL)
            os.waitpid(self.process.pid, 0)
            self.process = None
            raise LogFailure(str(word.get("error") or "the log-writer ended at once"))
        self._ready = True
        self._socket.setblocking(False)

    # --- on the loop ------------------------------------------------------------------
    def attach(self, loop: Loop, reaper: Reaper) -> None:
        """From now on the loop sends what waits, and the process is started again."""
        self._loop, self._reaper = loop, reaper
        self._watch()

    def _watch(self) -> None:
        assert self._reaper is not None and self.process is not None
        self._reaper.watch(self.process.pid, self._ended, unstoppable=True)
        self._look(self._blocked)

    def _look(self, blocked: bool) -> None:
        self._blocked = blocked
        if self._loop is not None and self._socket is not None:
            self._loop.watch(self._socket.fileno(), self._hear, self._flush if blocked else None)

    def _hear(self) -> None:
        """That it is ready, or cannot be; an alert; or the end, which the reaper tells."""
        assert self._socket is not None and self._loop is not None
        try:
            word = words.hear(self._socket)
        except EOFError:
            self._loop.forget(self._socket.fileno())
            return
        except WireError as e:
            self._replace(f"broke the protocol: {e}")
            return
        if word is None:
            return
        if "ready" in word:
            self._ready, self.alert = True, ""
            self._flush()
            return
        before, self.alert = self.alert, str(word.get("error", word.get("alert", self.alert)))
        if self.alert and ("alert" in word or self.alert != before):
            log.critical("%s", self.alert)

    def _replace(self, why: str) -> None:
        assert self._socket is not None and self._loop is not None
        self._loop.forget(self._socket.fileno())
        log.error("log-writer %s", why)
        if self.process is not None:
            signal_process(self.process, signal.SIGKILL)

    def _ended(self, status: int) -> None:
        if self._socket is not None and self._loop is not None:
            if not self._ready:
                self._hear()  # why it could not begin
            self._loop.forget(self._socket.fileno())
            self._socket.close()
        self._socket, self.process = None, None
        if self._closing or self._loop is None:
            return
        self._failures += 1
        self.restarts += 1
        delay = decisions.backoff(self._failures - 1)
        log.error("log-writer ended: %s; started again in %.1f s", describe_end(status), delay)
        self._loop.call_later(delay, self._again)

    def _again(self) -> None:
        if self._closing or self._loop is None:
            return
        try:
            self._fork()
        except OSError:
            self._loop.call_later(decisions.REFUSED_AGAIN, self._again)
            return
        assert self._socket is not None
        self._socket.setblocking(False)
        self._blocked = False
        self._watch()

    # --- lines ------------------------------------------------------------------------
    def emit(self, record: logging.LogRecord) -> None:
        try:
            self._put(_packet(record))
        except Exception:
            self.lost += 1  # a log that fails must not be the end of what it tells of

    def _put(self, packet: bytes) -> None:
        if len(self._waiting) >= _WAITING_MAX:
            self.lost += 1
            self._unsaid += 1
            return
        self._waiting.append(packet)
        if len(self._waiting) == 1:
            self._flush()

    def _flush(self) -> None:
        if self._socket is None or not self._ready:
            return
        try:
            while self._waiting:
                self._socket.send(self._waiting[0], socket.MSG_NOSIGNAL)
                self._waiting.popleft()
                self._failures = 0
            if self._to_publish:
                self._socket.send(self._to_publish, socket.MSG_NOSIGNAL)
                self._to_publish = b""
            if self._unsaid:
                number, self._unsaid = self._unsaid, 0
                text = f"{number} lines of the log were lost: it was not written fast enough"
                record = {"levelname": "ERROR", "levelno": logging.ERROR, "msg": text}
                self._put(_packet(logging.makeLogRecord({**record, "process": os.getpid()})))
        except OSError:
            pass  # full: the loop looks again; or gone: the reaper tells
        blocked = bool(self._waiting or self._to_publish)
        if self._blocked != blocked:
            self._look(blocked)

    def reopen(self) -> None:
        """SIGUSR2: the log was moved away."""
        self._put(json.dumps({"reopen": True}).encode())

    def publish(self, path: Path | None, text: str) -> None:
        """Have ``text`` put into a file as a whole, or with no path the former one removed.

        Only the newest counts: one that waits for older lines is replaced.
        """
        packet = {"publish": text, "path": str(path or "")}
        self._to_publish = json.dumps(packet).encode()
        if len(self._to_publish) > _PUBLISH_MAX:
            self._to_publish = b""
            log.error("%s is not written: it would be larger than %d bytes", path, _PUBLISH_MAX)
        if not self._waiting:
            self._flush()

    def close(self) -> None:
        """Let it write what it has, for a moment; then it is over."""
        super().close()
        self._closing = self._ready = True
        if self._socket is None or self.process is None:
            return
        deadline = time.monotonic() + _END_MAX
        self._socket.settimeout(_END_MAX)
        self._flush()
        self._socket.close()
        self._socket, self._loop = None, None
        with contextlib.suppress(ChildProcessError):
            while time.monotonic() < deadline:
                if os.waitpid(self.process.pid, os.WNOHANG)[0]:
                    return
                time.sleep(0.002)
        signal_process(self.process, signal.SIGKILL)


def _packet(record: logging.LogRecord) -> bytes:
    """A record for the log-writer: its message is one safe line from here on."""
    packet: dict[str, Any] = {
        "level": record.levelname,
        "message": mepdlog.message_of(record),
        "title": getattr(record, "title", "mepd: master"),
        "pid": record.process,
        "time": record.created,
    }
    for name in ("uep", "user"):
        if getattr(record, name, ""):
            packet[name] = getattr(record, name)
    return json.dumps(packet).encode()
