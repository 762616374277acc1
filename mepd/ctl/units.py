"""The files that make mepd a service of systemd's, from those that are shipped."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path

import mepd
from mepd.errors import ControlError

SERVICE = "mepd"
_PREFIX, _CONFIG = "/opt/mepd", "/etc/mepd/mepd.conf"
_UNIT = f"/etc/systemd/system/{SERVICE}.service"
_BESIDE = {
    "mepd.sysusers": f"/etc/sysusers.d/{SERVICE}.conf",
    "mepd.tmpfiles": f"/etc/tmpfiles.d/{SERVICE}.conf",
}

Below = Callable[[str | Path], Path]
"""From a path of the system to where it is seen from here: another one for an image."""


def shipped(name: str) -> Path:
    """A file of share/mepd, or of the checkout. Raises ControlError."""
    top = Path(mepd.__file__).parent.parent
    places = [Path(sys.prefix, "share/mepd"), top / "conf", top / "scripts"]
    for path in (place / name for place in places):
        if path.exists():
            return path
    raise ControlError(f"{places[0] / name} is missing: install mepd again", os.EX_OSFILE)


def _word(path: str | Path) -> str:
    """A path as a word of a unit's command line; see systemd.syntax(7)."""
    text = str(path).replace("%", "%%").replace("$", "$$")
    if not text.isprintable():
        raise ControlError(f"{text!r} cannot stand in a unit", os.EX_DATAERR)
    if all(c.isalnum() or c in "/._-+@:%$" for c in text):
        return text
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def service_unit(config: Path) -> str:
    """The shipped unit, for this installation and this configuration."""
    text = shipped("mepd.service").read_text()
    text = text.replace(f"{_PREFIX}/bin/mepd", _word(Path(sys.prefix, "bin/mepd")))
    return text.replace(_CONFIG, _word(config))


def install(below: Below, config: Path) -> list[Path]:
    """Write unit, account, folders and, if there is none, the configuration.

    What exists is left as it is. Returns what was made. Raises OSError; then nothing is.
    """
    wanted = {_UNIT: service_unit(config)}
    wanted |= {path: shipped(name).read_text() for name, path in _BESIDE.items()}
    wanted[str(config)] = shipped("mepd.conf").read_text()
    made: list[Path] = []
    try:
        for name, text in wanted.items():
            path = below(name)
            if path.exists():
                continue
            for folder in reversed([f for f in path.parents if not f.exists()]):
                folder.mkdir(mode=0o755)
            with open(path, "x") as f:
                made.append(path)
                os.fchmod(f.fileno(), 0o644)
                f.write(text)
    except OSError:
        remove(made)
        raise
    return made


def installed(below: Below) -> list[Path]:
    """What belongs to the service alone: everything but the configuration."""
    return [below(_UNIT), *(below(path) for path in _BESIDE.values())]


def remove(paths: list[Path]) -> None:
    for path in paths:
        path.unlink(missing_ok=True)
