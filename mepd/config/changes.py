"""What differs between two versions of a configuration, in words. Pure.

Names only, never values: the log is read by more people than the files.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from mepd.config.endpoint import CONFIG, ENVIRONMENT
from mepd.config.settings import EndpointSnapshot, Settings

ONLY_AT_START = {
    "mepd": ("logfile", "logfile_maxbytes", "logfile_backups", "log_to", "pidfile", "user"),
    "control": ("file", "chmod", "chown"),
}
"""Keys by section that a running mepd does not take over."""


def _keys(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    missing = object()
    both = {**old, **new}
    return [str(k) for k in both if old.get(k, missing) != new.get(k, missing)]


def _file(name: str, old: EndpointSnapshot, new: EndpointSnapshot) -> str:
    keys: list[str] = []
    if name not in new.versions:
        return f"{name} (removed)"
    if name == CONFIG:
        keys = _keys(old.config, new.config)
    elif name == ENVIRONMENT:
        keys = _keys(old.environment, new.environment)
    return f"{name}: {', '.join(keys)}" if keys else name


def of_endpoint(old: EndpointSnapshot, new: EndpointSnapshot) -> str:
    """``config.yaml: display_name, pam; user_config_template.yaml.j2``"""
    return "; ".join(_file(name, old, new) for name in _keys(old.versions, new.versions))


def _fields(old: Any, new: Any) -> list[str]:
    names = [f.name for f in dataclasses.fields(old) if f.name != "name"]
    return [name for name in names if getattr(old, name) != getattr(new, name)]


def _sections(kind: str, old: tuple[Any, ...], new: tuple[Any, ...]) -> list[str]:
    before, after = {s.name: s for s in old}, {s.name: s for s in new}
    said = []
    for name in {**before, **after}:
        if name not in after:
            said.append(f"[{kind}:{name}] removed")
        elif name not in before:
            said.append(f"[{kind}:{name}] added")
        elif before[name] != after[name]:
            said.append(f"[{kind}:{name}] {', '.join(_fields(before[name], after[name]))}")
    return said


def of_settings(old: Settings, new: Settings) -> str:
    """``[mepd] max_ueps, loglevel; [endpoint:gpu] added``; empty if nothing has."""
    said = []
    for section in ("mepd", "control", "service", "metrics"):
        keys = _fields(getattr(old, section), getattr(new, section))
        if keys:
            said.append(f"[{section}] {', '.join(keys)}")
    said += _sections("endpoint", old.endpoints, new.endpoints)
    said += _sections("program", old.programs, new.programs)
    return "; ".join(said)


def applicable(old: Settings, new: Settings) -> tuple[Settings, str]:
    """``new`` as far as a running mepd can take it over, and what it cannot, in words."""
    waiting, parts = [], {}
    for section, keys in ONLY_AT_START.items():
        before, after = getattr(old, section), getattr(new, section)
        late = [key for key in _fields(before, after) if key in keys]
        if late:
            waiting.append(f"[{section}] {', '.join(late)}")
        parts[section] = dataclasses.replace(after, **{key: getattr(before, key) for key in late})
    return dataclasses.replace(new, **parts), "; ".join(waiting)
