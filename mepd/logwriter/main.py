"""The log-writer: takes lines from the master, and does for it what can stall.

A disk that is full or stuck, a terminal that was stopped, a system log that is gone: they
cost lines, which are counted, never the master's time. It ends when the master has, with
the last line written.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import signal
import socket
import time
from collections.abc import Callable
from typing import Any

from mepd.config.settings import MepdSection
from mepd.log import LEVELS
from mepd.logwriter import sinks
from mepd.logwriter.published import Published
from mepd.posix.parent import die_with_parent

_ALERT_EVERY = 60.0
_PACKET_MAX = 1024 * 1024
_LAST_WORDS = 1
"""Seconds to write what is left when the master has gone."""
_IGNORED = (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT, signal.SIGHUP, signal.SIGUSR1,
            signal.SIGUSR2, signal.SIGPIPE, signal.SIGTSTP, signal.SIGTTIN,
            signal.SIGTTOU)  # fmt: skip

MAKERS: dict[str, Callable[[MepdSection], logging.Handler]] = {
    "file": lambda s: sinks.RotatingFile(s.logfile, s.logfile_maxbytes, s.logfile_backups),
    "syslog": lambda _: sinks.Syslog(),
    "journald": lambda _: sinks.Journal(),
    "stderr": lambda _: sinks.Terminal(),
}


class Sink:
    """One place, and what it could not take."""

    def __init__(self, name: str, handler: logging.Handler, alert: Callable[[str], None]) -> None:
        self.name = name
        self._handler = handler
        self._alert = alert
        self._lost = 0
        self._why = ""
        self._trouble = ""

    def write(self, record: logging.LogRecord) -> None:
        try:
            if self._lost:
                text = f"{self._lost} lines of the log were lost: {self._why}"
                self._handler.emit(_note(text))
                self._lost = 0
                self._alert("")
            self._handler.emit(record)
            trouble = getattr(self._handler, "trouble", "")
            if trouble != self._trouble:
                self._trouble = trouble
                said = f"the log ({self.name}) cannot be rotated, and grows: {trouble}"
                self._alert(said if trouble else "")
        except OSError as e:
            self._lost += 1
            self._why = e.strerror or type(e).__name__
            self._alert(f"the log ({self.name}) cannot be written: {self._why}")

    def reopen(self) -> None:
        if isinstance(self._handler, sinks.RotatingFile):
            try:
                self._handler.reopen()
            except OSError as e:
                self._alert(f"the log ({self.name}) cannot be opened anew: {e.strerror}")


class Writer:
    """Reads from the master and gives each line to every sink."""

    def __init__(self, sock: socket.socket, section: MepdSection) -> None:
        """Raises OSError, naming the place that cannot be opened."""
        self._sock = sock
        self._alerted = -_ALERT_EVERY
        self._published = Published()
        self._sinks = []
        for name in section.log_to:
            try:
                self._sinks.append(Sink(name, MAKERS[name](section), self.alert))
            except OSError as e:
                where = section.logfile if name == "file" else name
                raise OSError(e.errno, f"log {where}: {e.strerror}") from None

    def run(self) -> None:
        """Until the master closes its end or is gone."""
        buffer = bytearray(_PACKET_MAX)
        try:
            while size := self._sock.recv_into(buffer):
                self._handle(json.loads(bytes(buffer[:size])))
        except ConnectionError:
            pass
        self._published.remove()

    def _handle(self, packet: dict[str, Any]) -> None:
        if "publish" in packet:
            try:
                self._published.replace(packet["path"], packet["publish"])
            except OSError as e:
                self.alert(f"{packet['path']} cannot be written: {e.strerror}")
            return
        for sink in self._sinks:
            if packet.get("reopen"):
                sink.reopen()
            else:
                sink.write(_record(packet))

    def alert(self, text: str) -> None:
        """Tell the master and the system log, now and then: the log itself is what fails.

        An empty text says that all is well again.
        """
        now = time.monotonic()
        if text and now - self._alerted < _ALERT_EVERY:
            return
        with contextlib.suppress(OSError):
            self._sock.send(json.dumps({"alert": text}).encode(), socket.MSG_DONTWAIT)
        if text:
            self._alerted = now
            with contextlib.suppress(OSError):
                sinks.Syslog().emit(_note(text))


def _note(text: str) -> logging.LogRecord:
    now = time.time()
    return _record({"level": "CRITICAL", "message": text, "title": "mepd: log-writer",
                    "pid": os.getpid(), "time": now})  # fmt: skip


def _record(packet: dict[str, Any]) -> logging.LogRecord:
    """The record of a packet; its message was made safe by the master."""
    level = str(packet["level"])
    return logging.makeLogRecord({
        "levelname": level, "levelno": LEVELS.get(level, logging.INFO),
        "msg": packet["message"], "title": packet["title"], "process": packet["pid"],
        "created": packet["time"], "msecs": packet["time"] % 1 * 1000,
        "uep": packet.get("uep", ""), "user": packet.get("user", ""),
    })  # fmt: skip


def run(sock: socket.socket, section: MepdSection, master: int) -> int:
    """The whole life of the log-writer; ``sock`` is of type SOCK_SEQPACKET."""
    os.umask(0o022)
    for number in _IGNORED:
        signal.signal(number, signal.SIG_IGN)

    def parent_died(*_: object) -> None:
        """A disk that is stuck gets no more than this; SIGCONT may mean something else."""
        if os.getppid() != master:
            signal.alarm(_LAST_WORDS)

    signal.signal(signal.SIGCONT, parent_died)
    try:
        die_with_parent(master)  # while the log is opened, which can take without end
        writer = Writer(sock, section)
        die_with_parent(master, signal.SIGCONT)
    except (OSError, ProcessLookupError) as e:
        sock.send(json.dumps({"error": e.strerror or str(e)}).encode())
        return os.EX_CANTCREAT
    sock.send(b'{"ready": true}')
    writer.run()
    return os.EX_OK
