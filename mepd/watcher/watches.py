"""Watching folders for changes of configuration files.

The watches are made as root: the service account could not make one on a folder of root's
that is 0700, but a watch goes on delivering after the privileges are given up.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Container, Iterable
from pathlib import Path, PurePath

from watchfiles._rust_notify import RustNotify

_log = logging.getLogger(__name__)

# A change is told half a second after it at the latest, a stream of changes every second.
# Between events the native side looks four times a second at what its own thread, which
# sleeps in inotify, has collected.
_GROUP_MS = 1000
_STEP_MS = 250
_NOISE = (".log", ".pid", ".tmp", ".swp", ".swx", ".lock", "~")


def matters(path: str) -> bool:
    """Whether a changed file can be configuration: no log, no editor's own file."""
    name = PurePath(path).name
    rotated = ".log." in name
    return not (rotated or name.endswith(_NOISE) or name.startswith((".", "#")))


def make(folders: Iterable[Path]) -> RustNotify | None:
    """Watches on the folders that exist; None if there are none, or the system has no more
    watches: then the master's own looks at the files have to do.

    Raises FileNotFoundError for one that has just gone.
    """
    present = [str(f) for f in folders if f.is_dir()]
    for folder in folders:
        if str(folder) not in present:
            _log.warning("%s is no folder: changes there go unnoticed", folder)
    if not present:
        return None
    # Never by polling: after the drop there would be nothing to see in root's folders
    try:
        return RustNotify(present, False, False, 0, False, False)
    except FileNotFoundError:
        raise
    except (OSError, RuntimeError) as e:  # the latter where there is no instance
        _log.error("no folder is watched, changes are noticed later: %s", e)
        return None


def tell(
    notify: RustNotify, names: Container[str], changed: Callable[[list[str]], None]
) -> None:
    """Call ``changed`` with the paths of each group of changes, for ever. Blocks.

    What is in ``names`` is told whatever it is called.
    """
    while True:
        events = notify.watch(_GROUP_MS, _STEP_MS, 0, None)
        if isinstance(events, str):
            continue
        paths = sorted({path for _, path in events if path in names or matters(path)})
        if paths:
            changed(paths)
