"""Results that the broker has not taken, one file a task, until it has.

Folder and file names are those of globus-compute-endpoint's result store: a folder left
by one program is sent by the other.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator
from pathlib import Path

from mepd.errors import WireError
from mepd.uep import files
from mepd.wire.message import unpack_result

_TASK_ID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_UNFINISHED = re.compile(rf"\.{_TASK_ID.pattern}\.new")
SIZE_MAX = 512 * 1024 * 1024  # RabbitMQ takes no larger message, however configured
FOLDER = "unacked_results"


class ResultStore:
    """The store below ``parent``. Raises OSError where the disk does.

    A folder in the place of a result is left alone.
    """

    def __init__(self, parent: Path) -> None:
        self._folder = parent / FOLDER
        self._folder.mkdir(mode=0o700, exist_ok=True)
        if self._folder.is_symlink():
            raise OSError(f"{self._folder} is a symbolic link")
        self._ids = set(self._look())

    def _look(self) -> Iterator[str]:
        """The results that an earlier life left; what it had begun to write goes."""
        with os.scandir(self._folder) as entries:
            for entry in entries:
                if _TASK_ID.fullmatch(entry.name) and not entry.is_dir(follow_symlinks=False):
                    yield entry.name
                elif _UNFINISHED.fullmatch(entry.name):
                    with contextlib.suppress(OSError):
                        os.unlink(entry)

    def __contains__(self, task_id: str) -> bool:
        return task_id in self._ids

    def pending(self) -> list[str]:
        return sorted(self._ids)

    def put(self, task_id: str, packed: bytes) -> None:
        """Keep a packed result; durable on return."""
        files.replace(self._folder / task_id, packed)
        self._ids.add(task_id)

    def get(self, task_id: str) -> bytes:
        """The packed result. Raises WireError for a file that holds none of that task."""
        fd = files.open_regular(self._folder / task_id, os.O_RDONLY)
        with open(fd, "rb") as f:
            if os.fstat(fd).st_size > SIZE_MAX:
                raise WireError("it is larger than any result")
            packed = f.read()
        if unpack_result(packed).task_id.lower() != task_id:
            raise WireError("it is another task's")
        return packed

    def discard(self, task_id: str) -> None:
        """Keep a result no longer; where the disk refuses, its file stays for the next life."""
        if task_id in self._ids:
            self._ids.discard(task_id)
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self._folder / task_id)
