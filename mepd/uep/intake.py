"""Between the broker and the engine: tasks that have come and may not run yet.

The broker counts what it sends ahead in tasks, not in bytes. Bodies beyond a budget wait
on disk, for as long as this process lives: unacked, they are still the broker's.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from mepd.uep import files
from mepd.uep.engines.base import EngineTask

BUDGET = 64 * 1024 * 1024
"""Bytes of task messages that are held in memory; one task may exceed it alone."""
FOLDER = "waiting_tasks"


@dataclass
class _Held:
    """A task, and whether it may run; its body may wait on disk."""

    task: EngineTask
    size: int
    cleared: bool
    on_disk: bool = False


class Intake:
    """Hands tasks to ``submit`` in their order, once cleared and while there is room.

    ``window`` tells how many tasks the engine may have at a time; None is any number.
    ``lost(task_id, text)`` is called for a task whose body cannot be read again.
    """

    def __init__(
        self,
        folder: Path | None,
        submit: Callable[[EngineTask], None],
        lost: Callable[[str, str], None],
        window: Callable[[], int] | None = None,
        budget: int = BUDGET,
    ) -> None:
        self._folder = folder / FOLDER if folder is not None else None
        self._submit = submit
        self._lost = lost
        self._window = window
        self._budget = budget
        self._held: dict[str, _Held] = {}
        self._engine: dict[str, int] = {}
        self._engine_bytes = 0
        self._memory = 0
        self._pumping = False
        self._sweep()

    def _sweep(self) -> None:
        """Remove what an earlier life of this UEP left."""
        if self._folder is not None and self._folder.is_dir() and not self._folder.is_symlink():
            for name in os.listdir(self._folder):
                with contextlib.suppress(OSError):
                    os.unlink(self._folder / name)

    @property
    def memory(self) -> int:
        """Bytes of task messages in memory, those of the engine included."""
        return self._memory + self._engine_bytes

    def __len__(self) -> int:
        """Tasks that the engine has not got yet."""
        return len(self._held)

    def add(self, task: EngineTask, cleared: bool = True) -> None:
        """Raises nothing: what the disk does not take stays in memory."""
        held = _Held(task, len(task.body), cleared)
        if self.memory + held.size > self._budget and (self._held or self._engine):
            self._spill(held)
        if not held.on_disk:
            self._memory += held.size
        self._held[task.task_id] = held
        self._pump()

    def _spill(self, held: _Held) -> None:
        if self._folder is None:
            return
        path = self._folder / held.task.task_id
        try:
            self._folder.mkdir(mode=0o700, exist_ok=True)
            fd = files.open_regular(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            try:
                files.write_all(fd, held.task.body)
            finally:
                os.close(fd)
        except OSError:
            with contextlib.suppress(OSError):
                os.unlink(path)
            return
        held.task = replace(held.task, body=b"")
        held.on_disk = True

    def clear(self, task_id: str) -> None:
        """The task may run."""
        held = self._held.get(task_id)
        if held is not None:
            held.cleared = True
            self._pump()

    def forget(self, task_id: str) -> None:
        """The engine has finished with a task, or it will not get it."""
        self._engine_bytes -= self._engine.pop(task_id, 0)
        held = self._held.pop(task_id, None)
        if held is not None:
            self._discard(held)
        self._pump()

    def _discard(self, held: _Held) -> None:
        if not held.on_disk:
            self._memory -= held.size
        elif self._folder is not None:
            with contextlib.suppress(OSError):
                os.unlink(self._folder / held.task.task_id)

    def drop(self) -> list[str]:
        """Give up everything that the engine has not got; which tasks those were."""
        ids = list(self._held)
        for held in self._held.values():
            self._discard(held)
        self._held.clear()
        return ids

    def _room(self, size: int) -> bool:
        if self._window is not None and len(self._engine) >= self._window():
            return False
        return not self._engine or self._engine_bytes + size <= self._budget

    def _pump(self) -> None:
        """Hand over what may go. An engine may finish a task before submit() returns."""
        if self._pumping:
            return
        self._pumping = True
        try:
            while self._held:
                held = next(iter(self._held.values()))
                if not held.cleared or not self._room(held.size):
                    return
                del self._held[held.task.task_id]
                self._hand_over(held)
        finally:
            self._pumping = False

    def _hand_over(self, held: _Held) -> None:
        task_id = held.task.task_id
        try:
            task = self._load(held)
        except OSError as e:
            self._discard(held)
            self._lost(task_id, f"its message could not be kept on disk: {e.strerror}")
            return
        self._discard(held)
        self._engine[task_id] = held.size
        self._engine_bytes += held.size
        self._submit(task)

    def _load(self, held: _Held) -> EngineTask:
        """Raises OSError."""
        if not held.on_disk or self._folder is None:
            return held.task
        fd = files.open_regular(self._folder / held.task.task_id, os.O_RDONLY)
        with open(fd, "rb") as f:
            return replace(held.task, body=f.read())
