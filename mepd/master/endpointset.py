"""The endpoints of a running mepd: added, drained, held, and gone with their last UEP."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from pathlib import Path
from typing import Protocol

from mepd.config import folder
from mepd.config.settings import EndpointSection, EndpointSnapshot
from mepd.master.endpoints import Endpoint
from mepd.master.reconfigure import EndpointPlan
from mepd.master.reload import Reloader

log = logging.getLogger(__name__)


class Host(Protocol):
    """Who serves endpoints to the world."""

    def serve(self, endpoint: Endpoint) -> None: ...

    def drain(self, endpoint: Endpoint) -> None: ...

    def drop(self, endpoint: Endpoint) -> None: ...

    def in_use(self, endpoint: Endpoint) -> bool: ...


class EndpointSet:
    """Endpoints by name. ``hold`` and ``resume`` are an administrator's word, which no
    reload overrules; the others follow mepd.conf."""

    def __init__(
        self, host: Host, reloader: Reloader, snapshots: Iterable[EndpointSnapshot],
        privileged: bool,
    ) -> None:  # fmt: skip
        self.by_name = {s.name: Endpoint(s, s.endpoint_id) for s in snapshots}
        self._host = host
        self._reloader = reloader
        self._privileged = privileged

    def serving(self) -> list[Endpoint]:
        """Those that take requests."""
        return [e for e in self.by_name.values() if not e.draining]

    def apply(self, plan: EndpointPlan, added: Iterable[EndpointSnapshot]) -> None:
        """What mepd.conf says by now."""
        for name in plan.removed:
            endpoint = self.by_name[name]
            log.info("endpoint %s is no longer configured: draining", name)
            endpoint.held = endpoint.stopped = False
            self._drain(endpoint)
        for name in plan.resumed:
            endpoint = self.by_name[name]
            log.info("endpoint %s is configured again", name)
            endpoint.draining = False
            self._reloader.reread(endpoint)
            self._host.serve(endpoint)
        for snapshot in added:
            self._add(snapshot)

    def _drain(self, endpoint: Endpoint) -> None:
        endpoint.draining = True
        self._reloader.drop(endpoint)
        self._host.drain(endpoint)
        self.forget_drained(endpoint.name)

    def _add(self, snapshot: EndpointSnapshot, by_hand: bool = False) -> None:
        former = self.by_name.get(snapshot.name)
        if former is not None:
            log.info("endpoint %s is now that of %s", snapshot.name, snapshot.directory)
            self._reloader.drop(former)
            self._host.drop(former)
        else:
            log.info("endpoint %s is served from now on", snapshot.name)
        added = Endpoint(snapshot, snapshot.endpoint_id, by_hand=by_hand)
        self.by_name[snapshot.name] = added
        self._host.serve(added)
        self._reloader.examine(added)

    def forget_drained(self, name: str) -> bool:
        """A drained endpoint goes, or is stopped, when the last of its UEPs has gone.

        Returns whether it went.
        """
        endpoint = self.by_name.get(name)
        if endpoint is None or not endpoint.draining or self._host.in_use(endpoint):
            return False
        if endpoint.held:
            self._stopped(endpoint)
            return False
        log.info("endpoint %s is gone", name)
        del self.by_name[name]
        self._host.drop(endpoint)
        return True

    def _stopped(self, endpoint: Endpoint) -> None:
        if not endpoint.stopped:
            log.info("endpoint %s is stopped", endpoint.name)
            endpoint.stopped, endpoint.online = True, False
            self._host.drop(endpoint)

    # --- what administrators ask ------------------------------------------------------
    def start_by_hand(self, name: str, directory: Path) -> None:
        """Serve a folder that mepd.conf does not name. Raises ConfigError or OSError."""
        self._add(folder.load(name, directory, self._privileged), by_hand=True)

    def hold(self, name: str) -> None:
        """Take no more requests for an endpoint, until :meth:`resume`; its UEPs go on."""
        endpoint = self.by_name[name]
        endpoint.held = True
        if endpoint.draining:
            self.forget_drained(name)
        else:
            log.info("endpoint %s takes no more requests: drained on request", name)
            self._drain(endpoint)

    def resume(self, name: str, section: EndpointSection | None) -> None:
        """Serve an endpoint as its folder is now. Raises ConfigError or OSError."""
        endpoint = self.by_name.get(name)
        if endpoint is None or (section and section.directory != endpoint.snapshot.directory):
            assert section is not None, "neither served nor configured"
            self._add(folder.load(name, section.directory, self._privileged))
            return
        snapshot = folder.load(name, endpoint.snapshot.directory, self._privileged)
        log.info("endpoint %s is served again", name)
        endpoint.snapshot = snapshot
        endpoint.files.accept(snapshot.versions)
        endpoint.draining = endpoint.held = endpoint.stopped = False
        self._reloader.examine(endpoint)
        self._host.serve(endpoint)
