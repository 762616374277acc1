"""Which version of each configuration file is in force, since when, and what is wrong now."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class _InForce:
    version: str
    since: float


@dataclass
class FileBook:
    """The files of one endpoint, or of mepd.conf with what it includes.

    Names are relative to ``root`` or absolute. ``error`` says why what the files hold now is
    not in force, ``blamed`` is the file that it is about. Times are of time(2).
    """

    root: Path
    versions: Mapping[str, str] = field(default_factory=dict)
    error: str = ""
    blamed: str = ""
    clock: Callable[[], float] = time.time
    _files: dict[str, _InForce] = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        self.accept(self.versions)

    def accept(self, versions: Mapping[str, str]) -> None:
        """These are in force now; a file whose version is the same is so since earlier."""
        now, old = self.clock(), self._files
        self._files = {
            name: old[name]
            if name in old and old[name].version == version
            else _InForce(version, now)
            for name, version in versions.items()
        }
        self.versions = dict(versions)
        self.error = self.blamed = ""

    def refuse(self, error: str, default: str, others: Iterable[str] = ()) -> bool:
        """The files are wrong; what is in force stays. False if that was known.

        The file, of those in force and ``others``, is found by the place with which
        ``error`` begins, or else that it names; ``default`` is blamed if that is none.
        """
        known = error == self.error
        self.error = error
        names = sorted({*self._files, *others, default}, key=len, reverse=True)
        places = [(name, place) for name in names for place in (str(self.root / name), name)]
        begins = [name for name, place in places if error.startswith(f"{place}:")]
        inside = [name for name, place in places if place in error]
        self.blamed = (begins or inside or [default])[0]
        return not known

    def view(self) -> list[dict[str, Any]]:
        """For mepctl status."""
        names = sorted({*self._files, self.blamed} - {""})
        return [self._row(name, self._files.get(name)) for name in names]

    def _row(self, name: str, in_force: _InForce | None) -> dict[str, Any]:
        return {
            "path": str(self.root / name),
            "version": in_force.version if in_force else None,
            "since": round(in_force.since, 1) if in_force else None,
            "error": self.error if name == self.blamed else "",
        }
