"""The audit of tasks: one audit-writer for each endpoint with an ``audit_log_path``.

A user endpoint writes its records to a socket whose other end the audit-writer gets. The
master keeps that end, too, so that an audit-writer that is started anew misses nothing;
it never reads a record, and never waits for the disk.
"""

from __future__ import annotations

import contextlib
import json
import logging
import signal
import socket
from collections import deque
from collections.abc import Callable
from pathlib import Path

from mepd.errors import WireError
from mepd.master import decisions, spawner, words
from mepd.master.bucket import Bucket
from mepd.master.endpoints import Endpoint
from mepd.master.loop import Loop
from mepd.master.reaper import Reaper
from mepd.master.states import describe_end
from mepd.master.table import Uep
from mepd.posix.accounts import Account
from mepd.posix.process import ProcessId, identify, signal_process

log = logging.getLogger(__name__)

ENTRY = "mepd.auditwriter.main"
_STABLE_AFTER = 10.0
_WORDS_MAX = 100
"""At once; for long, one a second: it tries a log that cannot be written twice in that time."""


class AuditWriter:
    """The process behind one log, and its successors.

    ``failure`` says why the log cannot be written now, '' if it can or is just being
    opened. ``live`` lists the user endpoints whose records it is to read.
    """

    def __init__(
        self,
        loop: Loop,
        reaper: Reaper,
        account: Account,
        path: Path,
        endpoint_id: str,
        live: Callable[[], list[Uep]],
    ) -> None:
        self.failure = ""
        self.process: ProcessId | None = None
        self._loop = loop
        self._reaper = reaper
        self._account = account
        self._path = path
        self._endpoint_id = endpoint_id
        self._live = live
        self._socket: socket.socket | None = None
        self._waiting: deque[Uep] = deque()
        self._failures = 0
        self._since = 0.0
        self._replacing = False
        self._closing = False
        self._start()

    def _start(self) -> None:
        if self._closing:
            return
        self._replacing = False
        self._since = self._loop.clock()
        try:
            pid, sock = spawner.audit_writer(
                f"mepd: audit-writer {self._path.name}", ENTRY, self._account, self._path,
                self._endpoint_id,
            )  # fmt: skip
        except OSError as e:
            self._failed(f"cannot fork: {e.strerror}")
            self._loop.call_later(decisions.REFUSED_AGAIN, self._start)
            return
        self._socket = sock
        self._words = Bucket(1.0, _WORDS_MAX, _WORDS_MAX, self._loop.clock())
        self.process = identify(pid) or ProcessId(pid, 0.0)
        self._reaper.watch(pid, self._ended, unstoppable=True)
        self._waiting = deque(self._live())
        self._flush()

    def add(self, uep: Uep) -> None:
        """Have the records of a user endpoint read from now on."""
        self._waiting.append(uep)
        self._flush()

    def _flush(self) -> None:
        sock = self._socket
        if sock is None:
            return
        try:
            while self._waiting:
                uep = self._waiting[0]
                if uep.audit is not None:
                    about = {"uid": uep.uid, "pid": uep.process.pid, "uep": uep.request.uep_id}
                    packet = json.dumps(about).encode()
                    socket.send_fds(sock, [packet], [uep.audit.fileno()], socket.MSG_NOSIGNAL)
                self._waiting.popleft()
        except OSError:
            pass  # full: the loop looks again; or gone: the reaper tells
        self._loop.watch(sock.fileno(), self._hear, self._flush if self._waiting else None)

    def _hear(self) -> None:
        """What it says of its log; its end is told by the reaper."""
        assert self._socket is not None
        try:
            word = words.hear(self._socket)
            if word is not None and not self._words.take(self._loop.clock()):
                raise WireError("it speaks without end")
        except EOFError:
            self._loop.forget(self._socket.fileno())
            return
        except WireError as e:
            log.error("audit-writer of %s broke the protocol: %s", self._path, e)
            self._loop.forget(self._socket.fileno())
            if self.process is not None:
                signal_process(self.process, signal.SIGKILL)
            return
        if word is None:
            return
        if "ready" in word:
            self._failed("")
        else:
            self._failed(str(word.get("error") or word.get("alert") or ""))

    def _failed(self, why: str) -> None:
        if why and why != self.failure:
            log.critical(
                "the audit log %s cannot be written: %s; no task of its endpoint runs",
                self._path, why,
            )  # fmt: skip
        elif self.failure and not why:
            log.warning("the audit log %s can be written again", self._path)
        self.failure = why

    def _ended(self, status: int) -> None:
        if self._socket is not None:
            if not self.failure:
                self._last_word()
            self._loop.forget(self._socket.fileno())
            self._socket.close()
        self._socket, self.process = None, None
        if self._closing:
            return
        if self._replacing:
            self._start()
            return
        log.error("audit-writer of %s ended: %s", self._path, describe_end(status))
        if self._loop.clock() - self._since > _STABLE_AFTER:
            self._failures = 0
        self._again()

    def _last_word(self) -> None:
        assert self._socket is not None
        with contextlib.suppress(EOFError, WireError):
            word = words.hear(self._socket)
            if word and "error" in word:
                self._failed(str(word["error"]))

    def _again(self) -> None:
        delay = decisions.backoff(self._failures)
        self._failures += 1
        self._loop.call_later(delay, self._start)

    def reopen(self) -> None:
        """The log was moved away: the next process opens it anew, nothing is lost."""
        if self.process is not None:
            self._replacing = True
            self._say_stop()

    def _say_stop(self) -> None:
        if self._socket is not None:
            try:
                self._socket.send(b'{"stop": true}', socket.MSG_NOSIGNAL)
            except OSError:
                if self.process is not None:
                    signal_process(self.process, signal.SIGKILL)

    def close(self) -> None:
        """No user endpoint is left: let it write what it has, then it is over."""
        self._closing = True
        self._say_stop()


class TaskAudit:
    """All audit-writers, by the path of their log."""

    def __init__(
        self, loop: Loop, reaper: Reaper, account: Account, ueps: Callable[[], list[Uep]]
    ) -> None:
        self._loop = loop
        self._reaper = reaper
        self._account = account
        self._ueps = ueps
        self._writers: dict[Path, AuditWriter] = {}

    def begin(self, endpoint: Endpoint) -> None:
        """Have the endpoint's audit-writer, if it is to have one."""
        path = endpoint.snapshot.audit_log_path
        if path is not None and path not in self._writers:
            self._writers[path] = AuditWriter(
                self._loop, self._reaper, self._account, path, endpoint.endpoint_id or "",
                lambda: [u for u in self._ueps() if u.audit_path == path and u.audit_told],
            )  # fmt: skip

    def refusal(self, endpoint: Endpoint) -> str | None:
        """Why no user endpoint of this endpoint may start."""
        self.begin(endpoint)
        path = endpoint.snapshot.audit_log_path
        writer = self._writers[path] if path is not None else None
        if writer is not None and writer.failure:
            return f"the audit log {path} cannot be written: {writer.failure}"
        return None

    def watch(self, uep: Uep) -> None:
        """Its user, its process and its program are certain: have its records read."""
        if uep.audit is not None and uep.audit_path is not None and not uep.audit_told:
            uep.audit_told = True
            self._writers[uep.audit_path].add(uep)

    def processes(self) -> list[ProcessId]:
        return [w.process for w in self._writers.values() if w.process is not None]

    def reopen(self) -> None:
        for writer in self._writers.values():
            writer.reopen()

    def close(self) -> None:
        for writer in self._writers.values():
            writer.close()
