"""An endpoint's folder as mepd takes it: read, owned by whom it must be, usable."""

from __future__ import annotations

import logging
from pathlib import Path

from mepd.config import endpoint as endpoint_config
from mepd.config import ownership
from mepd.config.settings import EndpointSnapshot
from mepd.errors import ConfigError

log = logging.getLogger(__name__)

_READINGS_MAX = 5
PAM = (Path("/etc/pam.d"), Path("/usr/lib/pam.d"), Path("/usr/share/pam.d"))
"""Where services of PAM are, in its order."""


def read(directory: Path, privileged: bool) -> dict[str, str]:
    """The texts of the folder's files, each of which only root can change.

    Raises ConfigError or OSError.
    """
    files = _read_whole(directory)
    if privileged:
        ownership.check_ownership([directory, *(directory / name for name in files)])
    return files


def _read_whole(directory: Path) -> dict[str, str]:
    """The files as they all were at one moment: two readings say the same.

    A folder that is swapped while it is read would else be half the old and half the new.
    """
    files = endpoint_config.read_files(directory)
    for _ in range(_READINGS_MAX):
        before, files = files, endpoint_config.read_files(directory)
        if before == files:
            return files
    raise ConfigError("changes while it is read", str(directory))


def parse(name: str, directory: Path, files: dict[str, str], privileged: bool) -> EndpointSnapshot:
    """The snapshot of these texts. Raises ConfigError or OSError."""
    snapshot = endpoint_config.parse_files(name, directory, files)
    if privileged:
        if snapshot.mappings is None:
            raise ConfigError(
                "identity_mapping_config_path is required when mepd runs as root",
                str(directory / endpoint_config.CONFIG),
            )
        ownership.check_ownership(ownership.endpoint_paths(snapshot, files))
    return snapshot


def warnings(snapshot: EndpointSnapshot, privileged: bool) -> list[str]:
    """What an administrator should know of a valid folder."""
    found = [f"endpoint {snapshot.name}: {warning}" for warning in snapshot.warnings]
    if not privileged and snapshot.mapping_path is not None:
        found.append(
            "`identity_mapping_config_path` specified, but process is not privileged (e.g.,"
            " not `root`) -- identity mapping configuration will be ignored:"
            f" {snapshot.mapping_path}"
        )
    if not privileged and snapshot.pam_enable:
        found.append("`pam` enabled, but process is not privileged -- it will be ignored")
    if privileged and snapshot.pam_enable and pam_file(snapshot.pam_service) is None:
        found.append(
            f"endpoint {snapshot.name}: PAM service {snapshot.pam_service} has no file in"
            f" {PAM[0]}: the rules of the service other apply"
        )
    return found


def pam_file(service: str) -> Path | None:
    """The file of a PAM service; None if there is none."""
    return next((f for f in (place / service for place in PAM) if f.is_file()), None)


def accept(snapshot: EndpointSnapshot, privileged: bool) -> EndpointSnapshot:
    """Log the warnings about a snapshot that is about to be in force."""
    for warning in warnings(snapshot, privileged):
        log.warning("%s", warning)
    return snapshot


def load(name: str, directory: Path, privileged: bool) -> EndpointSnapshot:
    """Read, parse and accept. Raises ConfigError or OSError."""
    return accept(parse(name, directory, read(directory, privileged), privileged), privileged)
