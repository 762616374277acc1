"""Logging for every process: one line format, redaction, and the ways to the master.

Processes with the master's rights send records through multiprocessing-logging's
handler, over datagrams that the master's loop drains; its queue pickles, so that way is
shut before a child drops its privileges. Processes with fewer rights write JSON lines.
"""

from __future__ import annotations

import json
import logging
import socket
import sys
import time
from typing import Any

from mepd.logtext import LINE_MAX, cut, one_line, redact, redact_value, safe

__all__ = ["one_line", "redact", "safe"]

_DATAGRAM_MAX = 32 * 1024
LEVELS = {"DEBUG": 10, "INFO": 20, "WARNING": 30, "ERROR": 40, "CRITICAL": 50}


def message_of(record: logging.LogRecord) -> str:
    """What a record says, with its traceback: one line without credentials.

    First fields, then patterns: a mapping among the arguments loses the values of its
    telling keys before it becomes text.
    """
    if record.args:
        record.args = redact_value(record.args)
    text = record.getMessage()
    if record.exc_info and not record.exc_text:
        record.exc_text = logging.Formatter().formatException(record.exc_info)
    if record.exc_text:
        text = f"{text}\n{record.exc_text}"
    if record.stack_info:
        text = f"{text}\n{record.stack_info}"
    return safe(text)


def whom(record: logging.LogRecord, message: str) -> str:
    """``[(user, name)] `` where a record is about a UEP that its message does not name."""
    name, user = getattr(record, "uep", ""), getattr(record, "user", "")
    if not name or (name in message and user in message):
        return ""
    return f"[({user}, {name})] " if user else f"[{name}] "


class LineFormatter(logging.Formatter):
    """``2026-01-31 12:00:00,123 INFO mepd: master 4711 message`` - one record, one line."""

    def format(self, record: logging.LogRecord) -> str:
        message = message_of(record)
        when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(record.created))
        title = one_line(str(getattr(record, "title", record.processName)), 200)
        head = f"{when},{int(record.msecs):03d} {record.levelname} {title} {record.process} "
        return cut(head + whom(record, message) + message, LINE_MAX - 1)


class JsonLineHandler(logging.Handler):
    """Writes records as JSON lines on a descriptor, for a parent that reads them.

    A full or broken pipe drops the record: a worker never stalls on its own log.
    """

    def __init__(self, stream: Any = None) -> None:
        super().__init__()
        self._stream = stream if stream is not None else sys.stderr

    def emit(self, record: logging.LogRecord) -> None:
        try:
            line = {
                "level": record.levelname,
                "message": message_of(record),
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


class About(logging.Filter):
    """Puts the UEP that a process is about on its records; ``user`` once it is known."""

    def __init__(self, uep: str) -> None:
        super().__init__()
        self.uep = uep
        self.user = ""

    def filter(self, record: logging.LogRecord) -> bool:
        record.uep, record.user = self.uep, self.user
        return True


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
        record.msg, record.args = message_of(record), None
        record.exc_info = record.exc_text = record.stack_info = None
        import pickle  # here: programs without such a channel start without it

        try:
            self.writer.send(pickle.dumps(record.__dict__))
        except (BlockingIOError, ConnectionError):
            pass

    def drain(self) -> None:
        """Handle the records that have arrived; called by the master's loop."""
        import pickle

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
            level = LEVELS.get(str(obj.get("level")), logging.INFO)
    except (ValueError, RecursionError):
        pass
    logger = logging.getLogger("mepd.worker")
    if logger.isEnabledFor(level):
        record = logger.makeRecord(logger.name, level, "", 0, "%s", (message,), None)
        record.title = title
        record.process = pid
        logger.handle(record)
