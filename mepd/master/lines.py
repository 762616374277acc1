"""The stderr of a worker: JSON lines into the master's log."""

from __future__ import annotations

import logging
import os
from collections import deque

from mepd import log as mepdlog
from mepd.master.bucket import Bucket
from mepd.master.channel import TURN_MAX
from mepd.master.loop import Loop

log = logging.getLogger(__name__)

_LINE_MAX = 16 * 1024
_CHUNK = 64 * 1024


class LineReader:
    """Reads a pipe on the loop and logs its lines; a line without end is cut.

    Of one that writes without end, what is beyond ``RATE`` lines a second is counted only.
    """

    RATE = 200.0
    BURST = 1000.0

    def __init__(self, loop: Loop, fd: int, title: str, pid: int) -> None:
        os.set_blocking(fd, False)
        self._loop = loop
        self._fd = fd
        self._title = title
        self._pid = pid
        self._buffer = b""
        self._lines: deque[bytes] = deque()
        self._bucket = Bucket(self.RATE, self.BURST, self.BURST, loop.clock())
        self._dropped = 0
        loop.watch(fd, self._read)

    def _read(self) -> None:
        try:
            data = os.read(self._fd, _CHUNK)
        except BlockingIOError:
            return
        if not data:
            self.close()
            return
        *lines, self._buffer = (self._buffer + data).split(b"\n")
        self._lines.extend(lines)
        if len(self._buffer) > _LINE_MAX:
            self._lines.append(self._buffer)
            self._buffer = b""
        self._work()

    def _work(self) -> None:
        """Log for a moment; nothing more is read before the rest is logged."""
        until = self._loop.clock() + TURN_MAX
        while self._lines and self._loop.clock() < until:
            self._log(self._lines.popleft())
        if self._fd >= 0:
            self._loop.watch(self._fd, None if self._lines else self._read)
            if self._lines:
                self._loop.call_later(0.0, self._work)

    def _log(self, line: bytes) -> None:
        if not line.strip():
            return
        if not self._bucket.take(self._loop.clock()):
            self._dropped += 1
            return
        self._say_dropped()
        mepdlog.replay_json_line(line[:_LINE_MAX], self._title, self._pid)

    def _say_dropped(self) -> None:
        if self._dropped:
            log.error("%d lines of %s are lost: it wrote too many", self._dropped, self._title)
            self._dropped = 0

    def close(self) -> None:
        if self._fd >= 0:
            for line in (*self._lines, self._buffer):
                self._log(line)
            self._lines.clear()
            self._say_dropped()
            self._loop.forget(self._fd)
            os.close(self._fd)
            self._fd = -1
