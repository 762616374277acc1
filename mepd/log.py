"""Logging for every process: one line format, redaction, and the ways to the master.

Processes with the master's rights send records through multiprocessing-logging's
handler, over datagrams that the master's loop drains; its queue pickles, so that way is
shut before a child drops its privileges. Processes with fewer rights write JSON lines.
"""

from __future__ import annotations

import json
import logging
import logging.handlers
import pickle
import re
import socket
import sys
import time
from pathlib import Path
from typing import Any

LINE_MAX = 4096
_DATAGRAM_MAX = 32 * 1024
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
_URL_CREDENTIALS = re.compile(r"([a-z][a-z0-9+.-]*://)[^/\s'\"]*@", re.I)
_SECRET_FIELD = re.compile(
    r"""(["']?\b(?:password|passwd|secret|client_secret|access_token|refresh_token|token|enckey"""
    r"""|authorization)["']?\s*[:=]\s*)(?:"[^"]*"|'[^']*'|(?:Bearer\s+)?[^\s,;}'"]+)""",
    re.I,
)


def redact(text: str) -> str:
    """Hide credentials: user info of URLs, values of fields with telling names."""
    text = _URL_CREDENTIALS.sub(r"\1***@", text)
    return _SECRET_FIELD.sub(r"\1***", text)


def one_line(text: str, limit: int = LINE_MAX) -> str:
    """``text`` as one printable line of at most ``limit`` characters."""
    text = _CONTROL.sub(lambda m: m[0].encode("unicode_escape").decode("ascii"), text)
    text = text.replace("\n", "\\n").replace("\t", " ")
    return text if len(text) <= limit else text[: limit - 3] + "..."


class LineFormatter(logging.Formatter):
    """``2026-01-31 12:00:00,123 INFO mepd: master 4711 message`` - one record, one line."""

    def format(self, record: logging.LogRecord) -> str:
        message = record.getMessage()
        if record.exc_info and not record.exc_text:
            record.exc_text = self.formatException(record.exc_info)
        if record.exc_text:
            message = f"{message}\n{record.exc_text}"
        when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(record.created))
        title = getattr(record, "title", record.processName)
        head = f"{when},{int(record.msecs):03d} {record.levelname} {title} {record.process}"
        return f"{head} {one_line(redact(message))}"


class JsonLineHandler(logging.Handler):
    """Writes records as JSON lines on a descriptor, for a parent that reads them.

    A full or broken pipe drops the record: a worker never stalls on its own log.
    """

    def __init__(self, stream: Any = None) -> None:
        super().__init__()
        self._stream = stream if stream is not None else sys.stderr

    def emit(self, record: logging.LogRecord) -> None:
        try:
            message = record.getMessage()
            if record.exc_info:
                message += "\n" + logging.Formatter().formatException(record.exc_info)
            line = {
                "level": record.levelname,
                "message": redact(message)[:LINE_MAX],
                "title": getattr(record, "title", record.processName),
                "pid": record.process,
            }
            self._stream.write(json.dumps(line) + "\n")
            self._stream.flush()
        except Exception:
            pass


class TitleFilter(logging.Filter):
    """Puts this process's title on its records."""

    def __init__(self, title: str) -> None:
        super().__init__()
        self.title = title

    def filter(self, record: logging.LogRecord) -> bool:
        if not hasattr(record, "title"):
            record.title = self.title
        return True


def open_logfile(path: Path, maxbytes: int, backups: int) -> logging.Handler:
    """The handler of the master's log file. Raises OSError."""
    handler = logging.handlers.RotatingFileHandler(
        path, maxBytes=maxbytes, backupCount=backups if maxbytes else 0, encoding="utf-8"
    )
    handler.setFormatter(LineFormatter())
    return handler


def configure(title: str, handlers: list[logging.Handler], level: str = "info") -> None:
    """Make ``handlers`` the only ones of this process."""
    root = logging.getLogger()
    for old in list(root.handlers):
        root.removeHandler(old)
    for handler in handlers:
        if handler.formatter is None:
            handler.setFormatter(LineFormatter())
        for old_filter in list(handler.filters):
            handler.removeFilter(old_filter)
        handler.addFilter(TitleFilter(title))
        root.addHandler(handler)
    root.setLevel(level.upper())
    logging.captureWarnings(True)


class RecordChannel:
    """Datagrams of pickled records from processes with the master's own rights.

    One datagram is one record, so that writers need no lock that could die with them.
    """

    def __init__(self) -> None:
        self.reader, self.writer = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.reader.setblocking(False)
        self.writer.setblocking(False)

    def put_nowait(self, record: logging.LogRecord) -> None:
        """Queue interface for MultiProcessingHandler; drops the record when full."""
        data = pickle.dumps(record.__dict__)
        if len(data) > _DATAGRAM_MAX:
            record.msg = str(record.msg)[:LINE_MAX]
            record.exc_text = (record.exc_text or "")[-LINE_MAX:] or None
            data = pickle.dumps(record.__dict__)
        try:
            self.writer.send(data)
        except (BlockingIOError, ConnectionError):
            pass

    def drain(self) -> None:
        """Handle the records that have arrived; called by the master's loop."""
        root = logging.getLogger()
        while True:
            try:
                data = self.reader.recv(2 * _DATAGRAM_MAX)
            except (BlockingIOError, ConnectionError):
                return
            root.handle(logging.makeLogRecord(pickle.loads(data)))

    def child_handler(self, title: str) -> logging.Handler:
        """The handler for a forked child that still has the master's rights."""
        from multiprocessing_logging import MultiProcessingHandler

        channel = self

        class _Handler(MultiProcessingHandler):  # type: ignore[misc]
            """The package's record handling over our datagrams: no thread, no shared lock."""

            def __init__(self) -> None:
                logging.Handler.__init__(self)
                self.sub_handler = logging.NullHandler()
                self.queue = channel
                self._is_closed = False

            def setFormatter(self, fmt: logging.Formatter | None) -> None:
                logging.Handler.setFormatter(self, fmt)

            def close(self) -> None:
                logging.Handler.close(self)

        handler = _Handler()
        handler.addFilter(TitleFilter(title))
        return handler


def replay_json_line(line: bytes, fallback_title: str, pid: int) -> None:
    """Log one line that a process with fewer rights wrote: JSON if it fits, else as text."""
    level, message, title = logging.WARNING, line.decode("utf-8", "replace"), fallback_title
    try:
        obj = json.loads(line)
        if isinstance(obj, dict) and isinstance(obj.get("message"), str):
            message = obj["message"]
            level = {"DEBUG": 10, "INFO": 20, "WARNING": 30, "ERROR": 40, "CRITICAL": 50}.get(
                obj.get("level", ""), logging.INFO
            )
    except (ValueError, RecursionError):
        pass
    logger = logging.getLogger("mepd.worker")
    if logger.isEnabledFor(level):
        record = logger.makeRecord(logger.name, level, "", 0, "%s", (message,), None)
        record.title = title
        record.process = pid
        logger.handle(record)


def reopen() -> None:
    """Open the log file anew after it was moved away (SIGUSR2)."""
    for handler in logging.getLogger().handlers:
        if isinstance(handler, logging.FileHandler):
            handler.acquire()
            try:
                handler.close()
                handler.stream = handler._open()
            finally:
                handler.release()
