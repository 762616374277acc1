"""Settings: what mepd.conf says, as frozen dataclasses. See mepd.conf(5) for every key."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mepd.errors import ConfigError
from mepd.posix.rlimits import Limit


@dataclass(frozen=True)
class MepdSection:
    """``[mepd]``. Sizes in bytes, times in seconds; 0 for a cap means none."""

    logfile: Path = Path("/var/log/mepd/mepd.log")
    logfile_maxbytes: int = 50 * 1024 * 1024
    logfile_backups: int = 10
    loglevel: str = "info"
    log_to: tuple[str, ...] = ("file",)
    pidfile: Path = Path("/run/mepd/mepd.pid")
    user: str = "mepd"
    stopwaitsecs: float = 5.0
    max_ueps: int = 0
    max_ueps_per_user: int = 0
    start_timeout: float = 60.0
    min_uid: int | None = None
    deny_users: tuple[str, ...] = ()
    allow_groups: tuple[str, ...] = ()
    mapped_name_pattern: str = r"[a-z_][a-z0-9_.-]{0,31}"
    mapper_timeout: float = 30.0
    render_timeout: float = 5.0


@dataclass(frozen=True)
class ControlSection:
    """``[control]``: the socket of mepctl; ``chown`` is USER[:GROUP]."""

    file: Path = Path("/run/mepd/mepd.sock")
    chmod: int = 0o666
    chown: str = "root"


@dataclass(frozen=True)
class ServiceSection:
    """``[service]``: the web service; ``credentials`` is a JSON file of root's, mode 0600."""

    url: str = "http://localhost:5000"
    credentials: Path | None = None


@dataclass(frozen=True)
class MetricsSection:
    """``[metrics]``: a file for Prometheus, written every ``interval`` seconds."""

    textfile: Path | None = None
    interval: float = 15.0


@dataclass(frozen=True)
class EndpointSection:
    """``[endpoint:NAME]``"""

    name: str
    directory: Path
    autostart: bool = True


@dataclass(frozen=True)
class ProgramSection:
    """``[program:NAME]``, with supervisord's meanings and defaults.

    ``command`` is argv; ``environment`` is all that the program gets besides PATH.
    """

    name: str
    command: tuple[str, ...]
    user: str | None = None
    autostart: bool = True
    autorestart: bool = True
    priority: int = 999
    environment: tuple[tuple[str, str], ...] = ()
    directory: Path | None = None
    startsecs: float = 1.0
    startretries: int = 3
    stopsignal: str = "TERM"
    stopwaitsecs: float = 10.0
    stdout_logfile: Path | None = None


@dataclass(frozen=True)
class Settings:
    """One consistent reading of the INI file and all that it includes.

    ``versions`` belong to ``files``; ``patterns`` are what ``[include] files`` looks for;
    ``places`` is where each key stands, by names such as ``[mepd] user``.
    ``environ`` is what %(ENV_X)s was taken from, for the next reading: mepd's own
    environment has less.
    """

    path: Path
    mepd: MepdSection = MepdSection()
    control: ControlSection = ControlSection()
    service: ServiceSection = ServiceSection()
    metrics: MetricsSection = MetricsSection()
    endpoints: tuple[EndpointSection, ...] = ()
    programs: tuple[ProgramSection, ...] = ()
    files: tuple[Path, ...] = ()
    versions: tuple[str, ...] = field(default=(), compare=False)
    patterns: tuple[str, ...] = field(default=(), compare=False)
    places: Mapping[str, tuple[Path, int]] = field(default_factory=dict, repr=False, compare=False)
    environ: Mapping[str, str] = field(default_factory=dict, repr=False, compare=False)

    def error(self, key: str, message: str) -> ConfigError:
        """The error about a key whose value can only be found wrong when it is used."""
        path, line = self.places.get(key, (self.path, 0))
        return ConfigError(key + message, str(path), line)


@dataclass(frozen=True)
class EndpointSnapshot:
    """One endpoint's folder at one moment: all a start needs, inherited by the fork.

    ``mappings`` are the documents of the identity mapping file (None: no mapping
    configured); ``environment`` is user_environment.yaml, values as strings;
    ``includes`` are the other templates of the folder, by name; ``config`` is the
    parsed config.yaml as the templates' ``parent_config`` shows it; ``versions`` name the
    content of each file that was read, by its name.
    """

    name: str
    directory: Path
    endpoint_id: str | None
    config: dict[str, Any]
    template_name: str
    template: str
    schema: dict[str, Any] | None
    mappings: tuple[dict[str, Any], ...] | None
    mapping_path: Path | None
    environment: dict[str, str]
    includes: dict[str, str] = field(default_factory=dict)
    display_name: str | None = None
    pam_enable: bool = False
    pam_service: str = "globus-compute-endpoint"
    allowed_functions: tuple[str, ...] | None = None
    amqp_port: int | None = None
    heartbeat_period: float = 30.0
    grace_period: float = 30.0
    uep_command: tuple[str, ...] = ("mepd-uep", "start", "{name}", "--die-with-parent")
    max_ueps_per_user: int = 0
    limits: tuple[Limit, ...] = ()
    audit_log_path: Path | None = None
    registration: dict[str, Any] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    versions: dict[str, str] = field(default_factory=dict)

    @property
    def runs_own_uep(self) -> bool:
        """Whether what is started is mepd-uep, be it through a wrapper of that name."""
        return Path(self.uep_command[0]).name == "mepd-uep"
