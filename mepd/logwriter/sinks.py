"""Where lines of the log go: a file that rotates, the system log, the journal, a terminal."""

from __future__ import annotations

import errno
import logging
import logging.handlers
import os
import socket
import sys
import time
from io import TextIOWrapper
from pathlib import Path

from mepd.log import LineFormatter, whom

JOURNAL = "/run/systemd/journal/socket"
SYSLOG = "/dev/log"
_ROTATE_AGAIN = 60.0
_PRIORITIES = {logging.DEBUG: 7, logging.INFO: 6, logging.WARNING: 4, logging.ERROR: 3}
_COLOURS = {"DEBUG": "2", "WARNING": "33", "ERROR": "31", "CRITICAL": "1;31"}


class RotatingFile(logging.handlers.RotatingFileHandler):
    """The log file, with supervisord's logfile_maxbytes and logfile_backups.

    A line that does not fit on the disk leaves no part of itself behind, and raises. A log
    that cannot be rotated grows; after a while that is tried again.
    """

    def __init__(self, path: Path, maxbytes: int, backups: int) -> None:
        super().__init__(
            path, maxBytes=maxbytes, backupCount=backups, encoding="utf-8",
            errors="backslashreplace",
        )  # fmt: skip
        self.setFormatter(LineFormatter())
        self.trouble = ""
        self._retry_at = 0.0

    def _open(self) -> TextIOWrapper:
        """For appending, so that a file cut by somebody else has no hole; not for everybody."""
        fd = os.open(
            self.baseFilename, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o640
        )
        return TextIOWrapper(os.fdopen(fd, "ab"), encoding=self.encoding, errors=self.errors)

    def doRollover(self) -> None:
        """Without backups the log begins anew."""
        if not self.backupCount:
            os.truncate(self.baseFilename, 0)
            return
        super().doRollover()

    def emit(self, record: logging.LogRecord) -> None:
        """Raises OSError."""
        if self.stream is None:
            self.stream = self._open()
        if time.monotonic() >= self._retry_at and self.shouldRollover(record):
            self._rotate()
        if self.stream is None:
            self.stream = self._open()
        data = (self.format(record) + "\n").encode("utf-8", "backslashreplace")
        fd = self.stream.fileno()
        written = os.write(fd, data)
        if written < len(data):
            os.ftruncate(fd, os.fstat(fd).st_size - written)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def _rotate(self) -> None:
        try:
            self.doRollover()
            self.trouble = ""
        except OSError as e:
            self.trouble = e.strerror or str(e)
            self._retry_at = time.monotonic() + _ROTATE_AGAIN

    def reopen(self) -> None:
        """After it was moved away. Raises OSError; then the next line tries again."""
        old, self.stream = self.stream, None
        if old is not None:
            old.close()
        self.stream = self._open()


class Syslog(logging.handlers.SysLogHandler):
    """syslog(3) as facility daemon; raises OSError where nobody listens."""

    def __init__(self) -> None:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as probe:
            probe.connect(SYSLOG)  # the handler itself would say nothing
        super().__init__(SYSLOG, facility=self.LOG_DAEMON)
        self.ident = f"mepd[{os.getppid()}]: "
        self.append_nul = False
        self.setFormatter(_Bare())

    def handleError(self, record: logging.LogRecord) -> None:
        raise  # noqa: PLE0704 - in the except clause of emit()


class _Bare(logging.Formatter):
    """Title, process and message: the system log has time and level itself."""

    def format(self, record: logging.LogRecord) -> str:
        message = record.getMessage()
        title = getattr(record, "title", "mepd")
        return f"{title} {record.process} {whom(record, message)}{message}"


class Journal(logging.Handler):
    """journald's own protocol, with fields for what belongs to one user endpoint."""

    def __init__(self) -> None:
        super().__init__()
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.connect(JOURNAL)

    def emit(self, record: logging.LogRecord) -> None:
        """Raises OSError."""
        fields = {
            "MESSAGE": record.getMessage(),
            "PRIORITY": _PRIORITIES.get(record.levelno, 2),
            "SYSLOG_IDENTIFIER": "mepd",
            "MEPD_TITLE": getattr(record, "title", ""),
            "MEPD_PID": record.process,
            "MEPD_UEP": getattr(record, "uep", ""),
            "MEPD_USER": getattr(record, "user", ""),
        }
        lines = [f"{name}={value}\n" for name, value in fields.items() if value != ""]
        data = "".join(lines).encode("utf-8", "backslashreplace")
        try:
            self._socket.send(data)
        except OSError:  # journald was started anew
            self._socket.connect(JOURNAL)
            self._socket.send(data)


class Terminal(logging.Handler):
    """Standard error, with colours where it is a terminal."""

    def __init__(self) -> None:
        super().__init__()
        self._coloured = sys.stderr.isatty()
        self.setFormatter(LineFormatter())

    def emit(self, record: logging.LogRecord) -> None:
        """Raises OSError."""
        line = self.format(record)
        colour = _COLOURS.get(record.levelname) if self._coloured else None
        if colour:
            line = f"\033[{colour}m{line}\033[m"
        os.write(2, (line + "\n").encode("utf-8", "backslashreplace"))
