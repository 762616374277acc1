"""mepd.conf read again: all of it is found good before any of it is put in force.

The master reads it itself, as at its start: it is root's alone (which is checked), and the
standard library parses it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from mepd.config import changes, folder, ini, ownership
from mepd.config.settings import EndpointSection, EndpointSnapshot, Settings
from mepd.master.endpoints import Endpoint


@dataclass(frozen=True)
class EndpointPlan:
    """What becomes of the endpoints; none is named twice, and others are left alone."""

    added: tuple[EndpointSection, ...] = ()
    resumed: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()


@dataclass(frozen=True)
class Change:
    """Settings that may be put in force, the snapshots of the endpoints that they add (or
    find in another folder), what changed, and what waits for the next start of mepd."""

    settings: Settings
    plan: EndpointPlan
    snapshots: tuple[EndpointSnapshot, ...]
    changed: str
    waiting: str


def plan_endpoints(
    endpoints: Mapping[str, Endpoint], sections: Iterable[EndpointSection]
) -> EndpointPlan:
    """A section without autostart begins nothing, and ends nothing that runs.

    One that an administrator holds stays as it is, for as long as it has its section.
    """
    listed = {s.name: s for s in sections}
    added, resumed = [], []
    for name, section in listed.items():
        endpoint = endpoints.get(name)
        if endpoint is not None and endpoint.held:
            continue
        if endpoint is None or endpoint.draining:
            if not section.autostart:
                continue
            if endpoint is not None and endpoint.snapshot.directory == section.directory:
                resumed.append(name)
            else:
                added.append(section)
        elif endpoint.snapshot.directory != section.directory:
            added.append(section)
    removed = [
        name
        for name, e in endpoints.items()
        if name not in listed and not e.by_hand and (e.held or not e.draining)
    ]
    return EndpointPlan(tuple(added), tuple(resumed), tuple(removed))


def read(old: Settings, endpoints: Mapping[str, Endpoint], privileged: bool) -> Change:
    """The change to what is on disk now; nothing is in force yet.

    Raises ConfigError, OSError, or KeyError for an account that there is not.
    """
    found = ini.load(old.path, old.environ)
    if privileged:
        ownership.check_ownership(ownership.settings_paths(found))
    settings, waiting = changes.applicable(old, found)
    plan = plan_endpoints(endpoints, settings.endpoints)
    snapshots = tuple(folder.load(s.name, s.directory, privileged) for s in plan.added)
    return Change(settings, plan, snapshots, changes.of_settings(old, settings), waiting)


def versions(settings: Settings) -> dict[str, str]:
    """The version of each INI file by its path."""
    return {str(p): v for p, v in zip(settings.files, settings.versions, strict=True)}
