"""What the config watcher shall watch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class WatchPlan:
    """Folders whose own files are watched; what lies deeper is not."""

    folders: tuple[Path, ...] = ()
