"""Which endpoint's folder is meant, without asking mepd."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from mepd.config import ini
from mepd.config.settings import Settings
from mepd.ctl.configure import directory_of
from mepd.ctl.main import DEFAULT_CONFIG, Target
from mepd.errors import ControlError


@dataclass(frozen=True)
class Place:
    """An endpoint's folder; ``config`` is the path of mepd.conf, '' where there is none."""

    name: str
    directory: Path
    config: str


def settings(target: Target) -> Settings | None:
    """mepd.conf as it is now; None if there is none. Raises ConfigError or OSError."""
    path = (target.config or DEFAULT_CONFIG).absolute()
    try:
        return ini.load(path)
    except FileNotFoundError:
        if target.config is not None:
            raise
        return None


def find(target: Target, name: str | None, config_dir: Path | None) -> Place:
    """The only endpoint, or the one called ``name``: of mepd.conf, or in ``config_dir``.

    Raises ControlError, ConfigError or OSError.
    """
    found = settings(target)
    config = str(found.path) if found else ""
    sections = {e.name: e.directory for e in found.endpoints} if found else {}
    if name is None and len(sections) == 1:
        name = next(iter(sections))
    if name is None:
        known = ", ".join(sorted(sections)) or "none"
        raise ControlError(f"say which endpoint is meant; configured are {known}", os.EX_USAGE)
    if config_dir is None and name in sections:
        return Place(name, sections[name], config)
    directory = directory_of(config_dir) / name
    if not directory.is_dir():
        raise ControlError(
            f"no endpoint {name} is configured, and there is no folder {directory}", os.EX_NOINPUT
        )
    return Place(name, directory, config)
