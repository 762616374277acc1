"""The configuration of a running mepd: what is in force, watched, and changed.

What is in force changes only as a whole, between two turns of the loop: a start sees the
old or the new. Programs, endpoints and UEPs that a change does not name go on untouched.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

from mepd.config import watchplan
from mepd.config.settings import EndpointSnapshot, ProgramSection, Settings
from mepd.config.watchplan import WatchPlan
from mepd.errors import ConfigError
from mepd.master import folder, reconfigure
from mepd.master.endpoints import Endpoint
from mepd.master.filebook import FileBook
from mepd.master.loop import Loop
from mepd.master.programs import Program
from mepd.master.programset import ProgramSet
from mepd.master.reload import Reloader
from mepd.master.starts import StartRules
from mepd.master.workers import Worker
from mepd.wire import worker as wire

log = logging.getLogger(__name__)

_POLL_PERIOD = 30.0


class Host(Protocol):
    """What a change needs of the rest of the master."""

    def rules_for(self, settings: Settings) -> StartRules: ...

    def adopt(self, settings: Settings, rules: StartRules) -> None: ...

    def serve(self, endpoint: Endpoint) -> None: ...

    def drain(self, endpoint: Endpoint) -> None: ...

    def drop(self, endpoint: Endpoint) -> None: ...

    def in_use(self, endpoint: Endpoint) -> bool: ...


class LiveConfig:
    """``settings`` and ``endpoints`` are what is in force."""

    def __init__(
        self,
        loop: Loop,
        host: Host,
        settings: Settings,
        snapshots: list[EndpointSnapshot],
        make_program: Callable[[ProgramSection], Program],
        privileged: bool,
    ) -> None:
        self.settings = settings
        self.endpoints = {s.name: Endpoint(s, s.endpoint_id) for s in snapshots}
        self.programs = ProgramSet(make_program, settings.programs)
        self.files = FileBook(settings.path.parent, reconfigure.versions(settings))
        self._loop = loop
        self._host = host
        self._privileged = privileged
        self._watcher: Worker | None = None
        self._reloader = Reloader(self._ask, host.serve, privileged)
        self._watched: frozenset[tuple[str, int, int]] = frozenset()
        self._seen = self._signature()

    # --- the watcher ------------------------------------------------------------------
    def begin(self, watcher: Worker) -> None:
        """Listen to the watcher, and look for oneself now and then."""
        self._watcher = watcher
        watcher.on_message = self._from_watcher
        watcher.on_up = self._watcher_up
        watcher.on_down = lambda: self._reloader.forget(watcher.replacing)
        self._loop.call_every(_POLL_PERIOD, self.poll)

    def watch_plan(self) -> WatchPlan:
        """What the next watcher shall watch."""
        plan = self._plan()
        self._watched = watchplan.identity(plan)
        return plan

    def _plan(self) -> WatchPlan:
        paths = list(watchplan.settings_paths(self.settings))
        for endpoint in self.endpoints.values():
            paths += watchplan.endpoint_paths(endpoint.snapshot)
        return watchplan.plan_for(paths)

    def _rewatch(self) -> None:
        """A watcher that gave up its rights cannot take on another folder: a new one can."""
        if self._watcher is not None and watchplan.identity(self._plan()) != self._watched:
            self._watcher.restart()

    def _ask(self, message: Any) -> bool:
        return self._watcher is not None and self._watcher.send(message)

    def _watcher_up(self) -> None:
        self._reloader.resume()
        self.poll()  # what changed while nobody watched

    def _from_watcher(self, message: Any) -> None:
        if isinstance(message, wire.Changed):
            conf = watchplan.plan_for(watchplan.settings_paths(self.settings))
            if any(conf.concerns(path) for path in message.paths):
                self._reread_settings()
            self._reloader.reread_changed(list(self.endpoints.values()), message.paths)
        elif isinstance(message, wire.Validated):
            self._reloader.validated(message)
        self._rewatch()

    def poll(self) -> None:
        """Find by stat(2) what nobody told."""
        if self._seen != self._signature() or self.files.error:
            self._reread_settings()
        self._reloader.poll(list(self.endpoints.values()))
        self._rewatch()

    def _signature(self) -> watchplan.Signature:
        return watchplan.signature(watchplan.settings_paths(self.settings))

    # --- changes ----------------------------------------------------------------------
    def reload(self) -> None:
        """Read mepd.conf and every endpoint again; what is wrong changes nothing."""
        log.info("rereading the configuration")
        self.files.error = ""  # who asks is told again
        self._reread_settings()
        for endpoint in list(self.endpoints.values()):
            if not endpoint.draining:
                self._reloader.reread(endpoint)
                self._host.serve(endpoint)  # the credentials may be others
        self._rewatch()

    def is_rereading(self) -> bool:
        """Whether an endpoint's files are still being checked."""
        return self._reloader.is_busy

    def _reread_settings(self) -> None:
        self._seen = self._signature()
        try:
            change = reconfigure.read(self.settings, self.endpoints, self._privileged)
            rules = self._host.rules_for(change.settings)
        except (ConfigError, OSError, KeyError) as e:
            reason = str(e.args[0]) if isinstance(e, KeyError) else str(e)
            others = map(str, watchplan.settings_paths(self.settings))
            if self.files.refuse(reason, str(self.settings.path), others):
                log.error(
                    "configuration not reloaded -- %s; the previous one remains in force", reason
                )
            return
        if self.files.error:
            log.info("%s is good again", self.files.blamed)
        self._apply(change, rules)

    def _apply(self, change: reconfigure.Change, rules: StartRules) -> None:
        old, self.settings = self.settings, change.settings
        before, after = self.files.versions, reconfigure.versions(change.settings)
        names = sorted(n for n in {**before, **after} if before.get(n) != after.get(n))
        self.files.accept(after)
        self._seen = self._signature()
        if names:
            log.info(
                "Configuration changed: %s (%s)", change.changed or "nothing that counts",
                ", ".join(names),
            )  # fmt: skip
        if names and change.waiting:
            log.warning("in force only when mepd is started again: %s", change.waiting)
        self._host.adopt(change.settings, rules)
        self._apply_endpoints(change)
        if old.service != change.settings.service:
            for endpoint in self.endpoints.values():
                if not endpoint.draining:
                    self._host.serve(endpoint)
        if old.programs != change.settings.programs:
            self.programs.change(change.settings.programs)

    def _apply_endpoints(self, change: reconfigure.Change) -> None:
        for name in change.plan.removed:
            endpoint = self.endpoints[name]
            log.info("endpoint %s is no longer configured: draining", name)
            endpoint.draining = True
            self._reloader.drop(endpoint)
            self._host.drain(endpoint)
            self.forget_drained(name)
        for name in change.plan.resumed:
            log.info("endpoint %s is configured again", name)
            self.endpoints[name].draining = False
            self._reloader.reread(self.endpoints[name])
            self._host.serve(self.endpoints[name])
        for snapshot in change.snapshots:
            self._add(snapshot)

    def _add(self, snapshot: EndpointSnapshot, by_hand: bool = False) -> None:
        former = self.endpoints.get(snapshot.name)
        if former is not None:
            log.info("endpoint %s is now that of %s", snapshot.name, snapshot.directory)
            self._reloader.drop(former)
            self._host.drop(former)
        else:
            log.info("endpoint %s is served from now on", snapshot.name)
        added = Endpoint(snapshot, snapshot.endpoint_id, by_hand=by_hand)
        self.endpoints[snapshot.name] = added
        self._host.serve(added)
        self._reloader.examine(added)

    def forget_drained(self, name: str) -> None:
        """A drained endpoint goes when the last of its UEPs has."""
        endpoint = self.endpoints.get(name)
        if endpoint is None or not endpoint.draining or self._host.in_use(endpoint):
            return
        log.info("endpoint %s is gone", name)
        del self.endpoints[name]
        self._host.drop(endpoint)
        self._rewatch()

    def start_endpoint(self, name: str, directory: Path) -> None:
        """Serve a folder that mepd.conf does not name. Raises ConfigError or OSError."""
        self._add(folder.load(name, directory, self._privileged), by_hand=True)
        self._rewatch()
