"""mepd.conf(5): sections and keys, in supervisord's manner, to frozen settings.

Every error names the file, the line and, for an unknown name, the nearest known one.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path

from mepd.config import inifile, values
from mepd.config.inifile import Collected, Keys, Layout, convert
from mepd.config.settings import (
    ControlSection,
    EndpointSection,
    MepdSection,
    MetricsSection,
    ProgramSection,
    ServiceSection,
    Settings,
)
from mepd.errors import ConfigError

MEPD: Keys = {
    "logfile": values.path,
    "logfile_maxbytes": values.size,
    "logfile_backups": values.backups,
    "loglevel": values.level,
    "log_to": values.logs,
    "pidfile": values.path,
    "user": values.word,
    "stopwaitsecs": values.seconds,
    "max_ueps": values.integer,
    "max_ueps_per_user": values.integer,
    "start_timeout": values.timeout,
    "min_uid": values.optional_integer,
    "deny_users": values.names,
    "allow_groups": values.names,
    "mapped_name_pattern": values.pattern,
    "mapper_timeout": values.timeout,
    "render_timeout": values.timeout,
}
CONTROL: Keys = {"file": values.path, "chmod": values.mode, "chown": values.owner}
SERVICE: Keys = {"url": values.url, "credentials": values.path}
METRICS: Keys = {"textfile": values.optional_path, "interval": values.interval}
ENDPOINT: Keys = {"directory": values.path, "autostart": values.boolean}
PROGRAM: Keys = {
    "command": values.command,
    "user": values.word,
    "autostart": values.boolean,
    "autorestart": values.boolean,
    "priority": values.integer,
    "environment": values.environment,
    "directory": values.path,
    "startsecs": values.seconds,
    "startretries": values.integer,
    "stopsignal": values.signal,
    "stopwaitsecs": values.seconds,
    "stdout_logfile": values.path,
}
LAYOUT = Layout(
    plain={
        "mepd": MEPD,
        "control": CONTROL,
        "service": SERVICE,
        "metrics": METRICS,
        "include": inifile.INCLUDE,
    },
    named={"endpoint": ENDPOINT, "program": PROGRAM},
)
_REQUIRED = {"endpoint": "directory", "program": "command"}


def load(path: Path, environ: Mapping[str, str] = os.environ) -> Settings:
    """Read ``path`` and what it includes. Raises ConfigError or OSError."""
    found = inifile.read(path.absolute(), LAYOUT, environ)
    plain = {
        name: convert(found.sections.get(name, {}), keys, environ)
        for name, keys in LAYOUT.plain.items()
    }
    endpoints = tuple(
        EndpointSection(name=label, **convert(found.sections[name], ENDPOINT, environ))
        for name, label in _labels(found, "endpoint")
    )
    _check_folders(endpoints, found)
    return Settings(
        path=path.absolute(),
        mepd=MepdSection(**plain["mepd"]),
        control=ControlSection(**plain["control"]),
        service=ServiceSection(**plain["service"]),
        metrics=MetricsSection(**plain["metrics"]),
        endpoints=endpoints,
        programs=tuple(
            ProgramSection(name=label, **convert(found.sections[name], PROGRAM, environ))
            for name, label in _labels(found, "program")
        ),
        files=tuple(found.files),
        versions=tuple(found.versions),
        patterns=tuple(found.patterns),
        places={v.key: (v.path, v.line) for s in found.sections.values() for v in s.values()},
        environ=dict(environ),
    )


def _check_folders(endpoints: Iterable[EndpointSection], found: Collected) -> None:
    """A folder holds the identifier of one endpoint: two would take it from each other."""
    owners: dict[Path, str] = {}
    for endpoint in endpoints:
        owner = owners.setdefault(endpoint.directory, endpoint.name)
        if owner != endpoint.name:
            value = found.sections[f"endpoint:{endpoint.name}"]["directory"]
            raise value.error(f"{endpoint.directory} is that of [endpoint:{owner}], too")


def load_control(path: Path, environ: Mapping[str, str] = os.environ) -> ControlSection:
    """The ``[control]`` section alone, for mepctl. Raises ConfigError or OSError."""
    found = inifile.read(path.absolute(), LAYOUT, environ)
    return ControlSection(**convert(found.sections.get("control", {}), CONTROL, environ))


def salvage_control(path: Path, environ: Mapping[str, str] = os.environ) -> ControlSection:
    """:func:`load_control` for a file with errors in other sections: the mepd that runs has an
    earlier version of it. Raises ConfigError or OSError."""
    found = inifile.salvage(path.absolute(), "control", CONTROL)
    return ControlSection(**convert(found, CONTROL, environ))


def _labels(found: Collected, kind: str) -> list[tuple[str, str]]:
    """(section, NAME) of every section of a kind. Raises ConfigError if one lacks its key."""
    labels = []
    for name, section in found.sections.items():
        if name.partition(":")[0] != kind:
            continue
        if _REQUIRED[kind] not in section:
            path, line = found.places[name]
            raise ConfigError(f"[{name}] needs {_REQUIRED[kind]}", str(path), line)
        labels.append((name, name.partition(":")[2]))
    return labels
