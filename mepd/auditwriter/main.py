"""The audit-writer of one audit log: what user endpoints say of their tasks, a line each.

It opens the log with the master's rights, drops them, and then reads what users' programs
write: each record is one packet, made one printable line of bounded length. A record is
answered with one byte once its line is in the log. While the log cannot be written nothing
is read, so that no task that asks first can run; the master never waits for this disk. A record
is taken from its socket when its line is in the log: the next audit-writer finds it there else.
"""

from __future__ import annotations

import array
import contextlib
import json
import os
import selectors
import signal
import socket
import stat
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from mepd.logtext import one_line
from mepd.posix.parent import die_with_parent

RECORD_MAX = 3500
"""Bytes of a record in the log, without its head; more of it is not kept."""
_RETRY_EVERY = 0.5
_LAST_WORDS = 1
"""Seconds to write what is left when the master has gone."""
_IGNORED = (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT, signal.SIGHUP, signal.SIGUSR1,
            signal.SIGUSR2, signal.SIGPIPE, signal.SIGTSTP, signal.SIGTTIN,
            signal.SIGTTOU)  # fmt: skip
_CONTROL_MAX = 4096


@dataclass(frozen=True)
class Plan:
    """``path`` of the log, and the endpoint's id for its first and last line."""

    path: Path
    endpoint_id: str


@dataclass(eq=False)
class Source:
    """One user endpoint. ``owed`` are the answers that it has yet to take."""

    sock: socket.socket
    head: str
    owed: int = 0


def line_of(head: str, data: bytes, now: datetime) -> bytes:
    """A line of the log, as globus-compute-endpoint 4.19 writes it (core_endpoint.py)."""
    text = one_line(data.decode("utf-8", "backslashreplace").replace("\n", " "), RECORD_MAX)
    return f"{now.isoformat()} {head} {text}\n".encode("utf-8", "backslashreplace")


class LogFile:
    """The log. A line that does not fit on the disk leaves no part of itself behind."""

    def __init__(self, path: Path) -> None:
        """Raises OSError."""
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        self._fd = os.open(path, flags | os.O_NONBLOCK, 0o600)
        self._regular = stat.S_ISREG(os.fstat(self._fd).st_mode)

    def write(self, line: bytes) -> None:
        """Raises OSError."""
        written = os.write(self._fd, line)
        if written < len(line):
            if self._regular:
                os.ftruncate(self._fd, os.fstat(self._fd).st_size - written)
            raise OSError("no space for a whole line")


class Writer:
    """Reads sources and the master's socket until the master closes it."""

    def __init__(self, control: socket.socket, log: LogFile, endpoint_id: str) -> None:
        self._control = control
        self._log = log
        self._about = f"uid={os.getuid()} pid={os.getpid()} eid={endpoint_id}"
        self._sources: set[Source] = set()
        self._selector = selectors.DefaultSelector()
        self._selector.register(control, selectors.EVENT_READ)
        self._failing = ""
        self._waiting: tuple[bytes, Source | None] | None = None
        self._running = True

    def run(self) -> None:
        self._put(self._session("Begin CEP session ====="), None)
        while self._running:
            self._turn(_RETRY_EVERY if self._waiting else None)
        deadline = time.monotonic() + _LAST_WORDS
        while self._sources and time.monotonic() < deadline:
            self._turn(0.05)
        if not self._waiting:
            self._put(self._session("End CEP session -----"), None)

    def _session(self, text: str) -> bytes:
        return f"{_now().isoformat()} {self._about} {text}\n".encode()

    def _turn(self, timeout: float | None) -> None:
        if self._waiting is not None:
            line, source = self._waiting
            self._waiting = None
            self._put(line, source)
        for key, events in self._selector.select(timeout):
            if key.data is None:
                self._hear()
            elif events & selectors.EVENT_WRITE:
                self._answer(key.data)
            elif self._waiting is None:
                self._read(key.data)

    # --- the master -------------------------------------------------------------------
    def _hear(self) -> None:
        """A source with its descriptor; the end of file, or the word, to stop."""
        space = socket.CMSG_SPACE(array.array("i").itemsize)
        try:
            data, ancillary, _, _ = self._control.recvmsg(_CONTROL_MAX, space)
        except ConnectionError:
            data, ancillary = b"", []
        about = json.loads(data) if data else {"stop": True}
        if about.get("stop"):
            self._running = False
            self._selector.unregister(self._control)
            return
        fds = array.array("i")
        for _level, _kind, part in ancillary:
            fds.frombytes(part)
        head = f"uid={about['uid']} pid={about['pid']} uep={about['uep']}"
        for fd in fds:
            source = Source(socket.socket(fileno=fd), head)
            source.sock.setblocking(False)
            self._sources.add(source)
            if self._waiting is None:
                self._watch(source)

    def _tell(self, word: dict[str, Any]) -> None:
        with contextlib.suppress(OSError):
            self._control.send(json.dumps(word).encode(), socket.MSG_DONTWAIT)

    # --- user endpoints ---------------------------------------------------------------
    def _watch(self, source: Source) -> None:
        events = selectors.EVENT_READ if self._waiting is None else 0
        events |= selectors.EVENT_WRITE if source.owed else 0
        known = source.sock in self._selector.get_map()
        if not events:
            if known:
                self._selector.unregister(source.sock)
        elif known:
            self._selector.modify(source.sock, events, source)
        else:
            self._selector.register(source.sock, events, source)

    def _read(self, source: Source) -> None:
        """One record of one source: nobody is served before the others. It stays in the socket."""
        try:
            data = _receive(source.sock, RECORD_MAX, socket.MSG_PEEK)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._forget(source)
            return
        self._put(line_of(source.head, data, _now()), source)

    def _forget(self, source: Source) -> None:
        self._sources.discard(source)
        if source.sock in self._selector.get_map():
            self._selector.unregister(source.sock)
        source.sock.close()

    def _answer(self, source: Source) -> None:
        try:
            source.owed -= source.sock.send(b"+" * min(source.owed, 1024))
        except BlockingIOError:
            pass  # globus-compute-endpoint never reads them
        except OSError:
            source.owed = 0
        self._watch(source)

    # --- the log ----------------------------------------------------------------------
    def _put(self, line: bytes, source: Source | None) -> None:
        try:
            self._log.write(line)
        except OSError as e:
            self._hold(line, source, e.strerror or str(e))
            return
        if self._failing:
            self._failing = ""
            self._tell({"alert": ""})
            for other in self._sources:
                self._watch(other)
        if source is not None and source in self._sources:
            _receive(source.sock, 1)  # all of the packet goes
            source.owed += 1
            self._answer(source)

    def _hold(self, line: bytes, source: Source | None, why: str) -> None:
        """Stop reading until this line is in the log."""
        self._waiting = (line, source)
        if self._failing != why:
            self._failing = why
            self._tell({"alert": why})
            for other in self._sources:
                self._watch(other)


def _receive(sock: socket.socket, size: int, flags: int = 0) -> bytes:
    """That the other end is gone with answers unread is told once (unix(7), ECONNRESET); what it
    said before is there. Raises OSError."""
    try:
        return sock.recv(size, flags)
    except ConnectionResetError:
        return sock.recv(size, flags)


def _now() -> datetime:
    return datetime.now().astimezone()


def run(sock: socket.socket, plan: Plan, drop: Callable[[], None], master: int) -> int:
    """The whole life of an audit-writer; ``sock`` is of type SOCK_SEQPACKET."""
    for number in _IGNORED:
        signal.signal(number, signal.SIG_IGN)

    def parent_died(*_: object) -> None:
        """A disk that is stuck gets no more than this; SIGCONT may mean something else."""
        if os.getppid() != master:
            signal.alarm(_LAST_WORDS + 1)

    signal.signal(signal.SIGCONT, parent_died)
    try:
        die_with_parent(master)  # while the log is opened, which can take without end
        log = LogFile(plan.path)
        drop()
        die_with_parent(master, signal.SIGCONT)
    except (OSError, ProcessLookupError) as e:
        sock.send(json.dumps({"error": e.strerror or str(e)}).encode())
        return os.EX_CANTCREAT
    sock.send(b'{"ready": true}')
    Writer(sock, log, plan.endpoint_id).run()
    return os.EX_OK
