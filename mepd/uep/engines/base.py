"""What the UEP asks of an engine, and what an engine tells the UEP."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol


@dataclass(frozen=True)
class EngineTask:
    """A task on its way to an engine; ``body`` is the packed message, opaque here.

    ``submitted`` is when, in ns since the epoch.
    """

    task_id: str
    body: bytes = field(repr=False)
    serializers: tuple[str, ...] = ()
    resources: dict[str, Any] = field(default_factory=dict)
    submitted: int = field(default_factory=time.time_ns)


@dataclass(frozen=True)
class EngineContext:
    """``folder`` is the UEP's own; ``title`` is what ps shows of a worker."""

    endpoint_id: str
    folder: Path
    title: str


class EngineEvents(Protocol):
    """Calls from an engine, always in the loop's thread."""

    def begun(self, task_ids: Iterable[str]) -> None:
        """These tasks are about to run; called before they can have any effect."""

    def finished(self, task_id: str, packed: bytes) -> None:
        """A packed result: a value, or an error that says what became of the task."""


class Engine(Protocol):
    """Runs tasks without ever blocking the loop. Every task submitted finishes once."""

    @property
    def capacity(self) -> int:
        """How many tasks it runs at a time; bounds what the UEP takes from the broker."""

    @property
    def running(self) -> int:
        """How many tasks it is running."""

    def start(self) -> None:
        """Make ready in the background."""

    def refusal(self, resources: dict[str, Any]) -> str | None:
        """Why it cannot serve a resource specification; None if it can."""

    def submit(self, task: EngineTask) -> None: ...

    def reap(self) -> None:
        """A child process has ended; it may be one of the engine's."""

    def drop_waiting(self) -> list[str]:
        """Forget the tasks that have not begun, and name them."""

    def stop(self) -> list[str]:
        """End at once; the tasks that were running."""

    def close(self) -> None:
        """Wait for what stop() began; called last, when the loop has ended."""

    def status(self) -> dict[str, Any]:
        """Its part of a status report's global_state."""
