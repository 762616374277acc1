"""The stderr of a worker: JSON lines into the master's log."""

from __future__ import annotations

import os

from mepd import log as mepdlog
from mepd.master.loop import Loop

_LINE_MAX = 16 * 1024
_CHUNK = 64 * 1024


class LineReader:
    """Reads a pipe on the loop and logs its lines; a line without end is cut."""

    def __init__(self, loop: Loop, fd: int, title: str, pid: int) -> None:
        os.set_blocking(fd, False)
        self._loop = loop
        self._fd = fd
        self._title = title
        self._pid = pid
        self._buffer = b""
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
        for line in lines:
            self._log(line)
        if len(self._buffer) > _LINE_MAX:
            self._log(self._buffer)
            self._buffer = b""

    def _log(self, line: bytes) -> None:
        if line.strip():
            mepdlog.replay_json_line(line[:_LINE_MAX], self._title, self._pid)

    def close(self) -> None:
        if self._fd >= 0:
            if self._buffer:
                self._log(self._buffer)
            self._loop.forget(self._fd)
            os.close(self._fd)
            self._fd = -1
