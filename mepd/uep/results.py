"""Results that the broker has not taken, one file a task, until it has.

Folder and file names are those of globus-compute-endpoint's result store: a folder left
by one program is sent by the other.
"""

from __future__ import annotations

import contextlib
import os
import re
from pathlib import Path

from mepd.uep import files

_TASK_ID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")
FOLDER = "unacked_results"


class ResultStore:
    """The store below ``parent``. Raises OSError where the disk does."""

    def __init__(self, parent: Path) -> None:
        self._folder = parent / FOLDER
        self._folder.mkdir(mode=0o700, exist_ok=True)
        if self._folder.is_symlink():
            raise OSError(f"{self._folder} is a symbolic link")
        self._ids = {n for n in os.listdir(self._folder) if _TASK_ID.fullmatch(n)}

    def __contains__(self, task_id: str) -> bool:
        return task_id in self._ids

    def pending(self) -> list[str]:
        return sorted(self._ids)

    def put(self, task_id: str, packed: bytes) -> None:
        """Keep a packed result; durable on return."""
        files.replace(self._folder / task_id, packed)
        self._ids.add(task_id)

    def get(self, task_id: str) -> bytes | None:
        """The packed result; None if it has gone from the disk."""
        try:
            fd = files.open_regular(self._folder / task_id, os.O_RDONLY)
        except FileNotFoundError:
            self._ids.discard(task_id)
            return None
        with open(fd, "rb") as f:
            return f.read()

    def discard(self, task_id: str) -> None:
        """Keep a result no longer; where the disk refuses, its file stays for the next life."""
        if task_id in self._ids:
            self._ids.discard(task_id)
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self._folder / task_id)
