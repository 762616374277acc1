"""Who could change what mepd will run or believe: nobody but root and mepd's own account.

As sshd(8) with StrictModes: not only the file counts, but each folder on the way to it,
and each symbolic link passed.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from mepd.config.settings import EndpointSnapshot, Settings
from mepd.errors import ConfigError

_LINKS_MAX = 40
_WRITABLE = stat.S_IWGRP | stat.S_IWOTH


def way(path: Path) -> Iterator[tuple[str, os.stat_result]]:
    """Every folder, link and file that opening ``path`` passes. Raises OSError."""
    todo = list(reversed(path.absolute().parts[1:]))
    at, links = "/", 0
    yield at, os.lstat(at)
    while todo:
        part = todo.pop()
        if part == "..":
            at = os.path.dirname(at)
            continue
        step = os.path.join(at, part)
        info = os.lstat(step)
        yield step, info
        if not stat.S_ISLNK(info.st_mode):
            at = step
            continue
        links += 1
        if links > _LINKS_MAX:
            raise OSError(40, os.strerror(40), str(path))
        target = Path(os.readlink(step))
        at = "/" if target.is_absolute() else at
        todo += reversed([p for p in target.parts if p != "/"])


def _fault(info: os.stat_result, uid: int) -> str:
    """What is wrong with one step of the way; '' if nothing.

    A sticky folder such as /tmp lets nobody rename what another owns, and who owns the
    next step is checked, too.
    """
    if info.st_uid not in (0, uid):
        return f"belongs to uid {info.st_uid}, not to {'root' if uid == 0 else f'uid {uid}'}"
    if stat.S_ISLNK(info.st_mode):
        return ""
    if stat.S_ISDIR(info.st_mode) and info.st_mode & stat.S_ISVTX:
        return ""
    if info.st_mode & _WRITABLE:
        return f"is writable by others (mode {stat.S_IMODE(info.st_mode):04o})"
    return ""


def check_ownership(paths: Iterable[Path], uid: int | None = None) -> None:
    """Raises ConfigError naming the first step to one of ``paths`` that others could change.

    ``uid`` is the account of mepd, by default the caller's. A path that does not exist is
    passed over, but not what leads to it. Raises OSError for one that cannot be looked at.
    """
    own = os.geteuid() if uid is None else uid
    seen: set[str] = set()
    for path in paths:
        try:
            for step, info in way(path):
                if step in seen:
                    continue
                seen.add(step)
                fault = _fault(info, own)
                if fault:
                    on_the_way = "" if step == str(path) else f" (on the way to {path})"
                    raise ConfigError(f"{fault}{on_the_way}", step)
        except FileNotFoundError:
            continue


def settings_paths(settings: Settings) -> tuple[Path, ...]:
    """The INI files, the credentials file, and the programs that are named by a path."""
    commands = (Path(p.command[0]) for p in settings.programs)
    credentials = settings.service.credentials
    return (
        *settings.files,
        *([credentials] if credentials else []),
        *(c for c in commands if c.is_absolute()),
    )


def endpoint_paths(snapshot: EndpointSnapshot, files: Iterable[str]) -> tuple[Path, ...]:
    """An endpoint's files, as ``read_files`` names them, and what its mappers run."""
    commands = (d["command"] for d in snapshot.mappings or () if "command" in d)
    programs = (path for command in commands for path in _programs(command))
    return (*(snapshot.directory / name for name in files), *programs)


def _programs(command: Sequence[str]) -> Iterator[Path]:
    """A command's program, the one that a script names in its first line, and the files
    among its words, of which one may be the script that an interpreter runs."""
    yield Path(command[0])
    interpreter = _interpreter(command[0])
    if interpreter.startswith("/"):
        yield Path(interpreter)
    yield from (Path(w) for w in command[1:] if w.startswith("/") and os.path.isfile(w))


def _interpreter(program: str) -> str:
    """What a script's first line names; '' for anything else."""
    try:
        fd = os.open(program, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return ""
    try:
        first = os.read(fd, 256)
    except OSError:  # a folder
        return ""
    finally:
        os.close(fd)
    words = first.split(b"\n")[0][2:].split() if first.startswith(b"#!") else []
    return os.fsdecode(words[0]) if words else ""


def code_paths(package: Path, search: Iterable[str], executable: str) -> tuple[Path, ...]:
    """What the interpreter runs: itself, the module search path, and a package's own files.

    To be called with the package's folder, ``sys.path`` and ``sys.executable``.
    """
    modules = (p for p in package.rglob("*") if "__pycache__" not in p.parts)
    folders = (Path(p) for p in search if p)
    return (Path(executable), *folders, package, *modules)
