"""Live changes: read by the master, checked by the watcher, swapped in as a whole.

The master never parses what the watcher, which has no rights, has not found good: a file
that crashes or stalls a parser costs the watcher, not the UEPs.
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mepd.config import endpoint as endpoint_config
from mepd.errors import ConfigError
from mepd.master.endpoints import Endpoint
from mepd.wire.worker import Validate, Validated

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Pending:
    endpoint: Endpoint
    files: dict[str, str]


class Reloader:
    """Re-reads endpoints' folders; ``swapped`` is called with each endpoint that changed."""

    def __init__(self, send: Callable[[Any], bool], swapped: Callable[[Endpoint], None]) -> None:
        self._send = send
        self._swapped = swapped
        self._tokens = itertools.count(1)
        self._pending: dict[str, _Pending] = {}

    def reread(self, endpoint: Endpoint) -> None:
        """Read the folder again and have it checked."""
        directory = endpoint.snapshot.directory
        try:
            files = endpoint_config.read_files(directory)
        except (ConfigError, OSError) as e:
            self._refused(endpoint, str(e))
            return
        token = f"v{next(self._tokens)}"
        self._pending[token] = _Pending(endpoint, files)
        if not self._send(Validate(token, endpoint.name, files)):
            del self._pending[token]
            log.warning("%s changed, but nobody can check it now: kept as it was", directory)

    def reread_changed(self, endpoints: list[Endpoint], paths: list[str]) -> None:
        """Re-read the endpoints whose files are among ``paths``."""
        folders = {str(Path(p).parent) for p in paths}
        for endpoint in endpoints:
            snapshot = endpoint.snapshot
            mapping = snapshot.mapping_path
            if str(snapshot.directory) in folders or (mapping and str(mapping.parent) in folders):
                self.reread(endpoint)

    def validated(self, answer: Validated) -> None:
        pending = self._pending.pop(answer.token, None)
        if pending is None:
            return
        if answer.error:
            self._refused(pending.endpoint, answer.error)
            return
        endpoint = pending.endpoint
        old = endpoint.snapshot
        try:
            new = endpoint_config.parse_files(old.name, old.directory, pending.files)
        except ConfigError as e:
            self._refused(endpoint, str(e))
            return
        endpoint.error = ""
        if replace(new, endpoint_id=old.endpoint_id) == old:
            return  # endpoint.json is the master's own
        endpoint.snapshot = new
        log.info("Configuration of endpoint %s changed: in force from the next start", old.name)
        self._swapped(endpoint)

    def forget(self) -> None:
        """The watcher is gone, and with it its answers."""
        self._pending.clear()

    def _refused(self, endpoint: Endpoint, reason: str) -> None:
        endpoint.error = reason
        log.error(
            "Unable to update the configuration of endpoint %s -- %s; the previous one"
            " remains in force", endpoint.name, reason,
        )  # fmt: skip
