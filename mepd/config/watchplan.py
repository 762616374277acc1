"""What the config watcher shall watch, so that no way of replacing a file goes unnoticed."""

from __future__ import annotations

import glob
import os
import stat
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from mepd.config import endpoint, ownership
from mepd.config.settings import EndpointSnapshot, Settings


@dataclass(frozen=True)
class WatchPlan:
    """Folders whose own entries are watched; what lies deeper is not.

    ``names`` are the files and symbolic links that matter whatever they are called: the
    ``..data`` of a Kubernetes ConfigMap looks like an editor's own file.
    """

    folders: tuple[Path, ...] = ()
    names: frozenset[str] = frozenset()

    def concerns(self, path: str) -> bool:
        """Whether a change of ``path`` may be a change of what this plan watches."""
        return path in self.names or Path(path).parent in self.folders


def plan_for(paths: Iterable[Path]) -> WatchPlan:
    """All folders in which a change can alter what opening one of ``paths`` finds.

    That is where each symbolic link on the way stands, and where the file itself does; for
    a file that is not there, the deepest folder on the way that is.
    """
    folders: set[Path] = set()
    names: set[str] = set()
    for path in paths:
        last, folder = "/", True
        try:
            for step, info in ownership.way(path):
                last, folder = step, stat.S_ISDIR(info.st_mode)
                if stat.S_ISLNK(info.st_mode):
                    folders.add(Path(step).parent)
                    names.add(step)
                    folder = False
        except OSError as e:
            names.add(str(path))
            last, folder = _deepest(e.filename), True
        if not folder:
            names.add(last)
        folders.add(Path(last) if folder else Path(last).parent)
    return WatchPlan(tuple(sorted(folders)), frozenset(names))


def _deepest(missing: str) -> str:
    """The deepest folder above ``missing``."""
    folder = os.path.dirname(missing)
    while not os.path.isdir(folder):
        folder = os.path.dirname(folder)
    return folder


def settings_paths(settings: Settings) -> tuple[Path, ...]:
    """The INI files, those that would be included now, and where others could appear."""
    paths = list(settings.files)
    for pattern in settings.patterns:
        parent, name = os.path.split(pattern)
        paths += [Path(pattern), *(Path(found, name) for found in glob.glob(parent))]
        paths += [Path(found) for found in glob.glob(pattern)]
    return tuple(dict.fromkeys(paths))


def endpoint_paths(snapshot: EndpointSnapshot) -> tuple[Path, ...]:
    """An endpoint's files: those that were read, and those that could appear."""
    names = dict.fromkeys((*snapshot.versions, *endpoint.KNOWN))
    return tuple(snapshot.directory / name for name in names)


def identity(plan: WatchPlan) -> frozenset[tuple[str, int, int]]:
    """What the watches hang on: each folder by name, device and inode.

    A folder that was replaced by another of the same name needs a new watch.
    """
    found = set()
    for folder in plan.folders:
        try:
            info = os.stat(folder)
        except OSError:
            continue
        found.add((str(folder), info.st_dev, info.st_ino))
    return frozenset(found)


Signature = tuple[tuple[str, int, int, int, int, int, int] | None, ...]


def signature(paths: Iterable[Path]) -> Signature:
    """What stat(2) says of files and their folders: a change of either changes it.

    This is the fallback for file systems that tell no other host's changes (NFS) and for
    folders that were moved away. It is the master's: the watcher cannot look into root's
    folders after it gave up its rights, neither by itself nor with its library's polling.
    Only stat(2), so that a FIFO holds nobody up; a hard mount whose server is away would,
    as it would when the file is read.
    """
    found: list[tuple[str, int, int, int, int, int, int] | None] = []
    for path in dict.fromkeys(p for path in paths for p in (path.parent, path)):
        try:
            s = os.stat(path)
        except OSError:
            found.append(None)
            continue
        found.append(
            (str(path), s.st_dev, s.st_ino, s.st_mtime_ns, s.st_size, s.st_mode, s.st_uid)
        )
    return tuple(found)
