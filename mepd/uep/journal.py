"""The task journal: which tasks had begun, kept across the death of this process.

One line an event, appended: ``B ID`` before a task is handed to a worker, ``F ID`` once
the broker has confirmed its result. What was written survives the death of this process,
and once sync() has returned, that of the machine.
"""

from __future__ import annotations

import enum
import os
import re
import threading
from collections.abc import Iterable
from pathlib import Path

from mepd.uep import files

_LINE = re.compile(rb"([BF]) ([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})")
FINISHED_KEPT = 2048
"""Finished tasks that it knows, at the least."""
COMPACT_LINES = 16384
READ_MAX = 4 * 1024 * 1024
"""Bytes; a larger file is none of ours, which are compacted long before. Its end counts."""
UNWRITTEN_MAX = 1024 * 1024
"""Bytes that wait for a disk that takes none, until the latest state takes their place."""


class Past(enum.Enum):
    """What the journal knows of a task."""

    UNKNOWN = "unknown"
    BEGUN = "begun"
    FINISHED = "finished"


def replay(
    data: bytes, kept: int = FINISHED_KEPT
) -> tuple[dict[str, None], dict[str, None]]:
    """The tasks begun and not finished, and the latest ``kept`` finished ones, oldest first.

    A line cut short by a crash is skipped.
    """
    begun: dict[str, None] = {}
    finished: dict[str, None] = {}
    for line in data.split(b"\n"):
        match = _LINE.fullmatch(line)
        if match is None:
            continue
        task_id = match[2].decode("ascii")
        if match[1] == b"B":
            begun[task_id] = None
            finished.pop(task_id, None)
        else:
            begun.pop(task_id, None)
            finished[task_id] = None
            if len(finished) > kept:
                del finished[next(iter(finished))]
    return begun, finished


class Journal:
    """The journal at ``path``. Methods that write raise OSError.

    What the disk did not take is written with what follows, or by flush(). ``unacked`` is
    how many deliveries there can be at once: acks of so many finished tasks may be lost.
    """

    def __init__(self, path: Path, unacked: int = 0) -> None:
        self._path = path
        self._kept = max(FINISHED_KEPT, unacked)
        self._fd = files.open_regular(path, os.O_RDWR | os.O_CREAT | os.O_APPEND)
        data, size = self._read()
        self._begun, self._finished = replay(data, self._kept)
        self._lines = data.count(b"\n") if size == len(data) else size
        self._unwritten = bytearray()
        if data and not data.endswith(b"\n"):
            self._unwritten += b"\n"  # a disk that is full now may have room by then
        self._unsynced = False
        self._file = threading.Lock()
        files.sync_folder(path.parent)

    def _read(self) -> tuple[bytes, int]:
        """The end of the file, and the size of all of it."""
        size = os.fstat(self._fd).st_size
        with open(self._fd, "rb", closefd=False) as f:
            f.seek(max(0, size - READ_MAX))
            return f.read(READ_MAX), size

    def past(self, task_id: str) -> Past:
        if task_id in self._begun:
            return Past.BEGUN
        return Past.FINISHED if task_id in self._finished else Past.UNKNOWN

    def begun(self, task_ids: Iterable[str]) -> None:
        ids = list(task_ids)
        for task_id in ids:
            self._begun[task_id] = None
            self._finished.pop(task_id, None)
        self._append(b"".join(b"B %s\n" % i.encode("ascii") for i in ids), len(ids))

    def finished(self, task_ids: Iterable[str]) -> None:
        ids = list(task_ids)
        for task_id in ids:
            self._begun.pop(task_id, None)
            self._finished[task_id] = None
        while len(self._finished) > self._kept:
            del self._finished[next(iter(self._finished))]
        self._append(b"".join(b"F %s\n" % i.encode("ascii") for i in ids), len(ids))

    def sync(self) -> None:
        """Have all that was written survive a loss of power; from any thread. Raises OSError."""
        with self._file:
            if not self._unsynced:
                return
            self._unsynced = False
            try:
                os.fdatasync(self._fd)
            except OSError:
                self._unsynced = True
                raise

    def _append(self, data: bytes, lines: int) -> None:
        self._unwritten += data
        self._lines += lines
        if len(self._unwritten) > UNWRITTEN_MAX:
            self._unwritten = bytearray(b"\n" + b"".join(self._state()))
        self.flush()
        if self._lines > max(COMPACT_LINES, 2 * (len(self._begun) + len(self._finished))):
            self._compact()

    def flush(self) -> None:
        """Write what the disk has not taken, from the very byte on. Raises OSError."""
        while self._unwritten:
            count = os.write(self._fd, self._unwritten)
            self._unsynced = True
            del self._unwritten[:count]

    def _state(self) -> list[bytes]:
        """The lines that tell what all lines so far do."""
        lines = [b"F %s\n" % i.encode("ascii") for i in self._finished]
        return lines + [b"B %s\n" % i.encode("ascii") for i in self._begun]

    def _compact(self) -> None:
        lines = self._state()
        fd = files.renew(self._path, b"".join(lines))
        with self._file:
            old, self._fd = self._fd, fd
            os.close(old)
            self._unsynced = False
        self._unwritten.clear()
        self._lines = len(lines)
        files.sync_folder(self._path.parent)

    def close(self) -> None:
        os.close(self._fd)
