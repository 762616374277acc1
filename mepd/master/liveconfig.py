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
from mepd.config.settings import EndpointSection, EndpointSnapshot, ProgramSection, Settings
from mepd.config.watchplan import WatchPlan
from mepd.errors import ConfigError
from mepd.master import endpointset, reconfigure
from mepd.master.endpointset import EndpointSet
from mepd.master.filebook import FileBook
from mepd.master.loop import Loop
from mepd.master.programs import Program
from mepd.master.programset import ProgramSet
from mepd.master.reload import Reloader
from mepd.master.reloadreport import ReloadReport
from mepd.master.starts import StartRules
from mepd.master.workers import Worker
from mepd.wire import worker as wire

log = logging.getLogger(__name__)

_POLL_PERIOD = 30.0
_CHANGES_EVERY = 0.2
"""Seconds between two rereadings of what the watcher tells; an honest one tells less often."""
_PATHS_MAX = 1000


class Host(endpointset.Host, Protocol):
    """What a change needs of the rest of the master."""

    def rules_for(self, settings: Settings) -> StartRules: ...

    def adopt(self, settings: Settings, rules: StartRules) -> None: ...


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
        self.programs = ProgramSet(make_program, settings.programs)
        self.files = FileBook(settings.path.parent, reconfigure.versions(settings))
        self._loop = loop
        self._host = host
        self._privileged = privileged
        self._watcher: Worker | None = None
        self._reloader = Reloader(self._ask, host.serve, privileged)
        self._set = EndpointSet(host, self._reloader, snapshots, privileged)
        self.endpoints = self._set.by_name
        self._watched: frozenset[tuple[str, int, int]] = frozenset()
        self._seen = self._signature()
        self._told: set[str] = set()
        self._quiet_until = 0.0

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
            self._changed(message.paths)
        elif isinstance(message, wire.Validated) and self._reloader.validated(message):
            self._rewatch()

    def _changed(self, paths: list[str]) -> None:
        """Look at what changed, now or soon: without end there would be no time for else."""
        pending = bool(self._told)
        self._told.update(paths[: _PATHS_MAX - len(self._told)])
        if self._told and not pending:
            delay = max(0.0, self._quiet_until - self._loop.clock())
            self._loop.call_later(delay, self._reread_told)

    def _reread_told(self) -> None:
        paths = sorted(self._told)
        self._told.clear()
        self._quiet_until = self._loop.clock() + _CHANGES_EVERY
        if len(paths) >= _PATHS_MAX:
            self.poll()  # there were more
        conf = watchplan.plan_for(watchplan.settings_paths(self.settings))
        if any(conf.concerns(path) for path in paths):
            self._reread_settings()
        self._reloader.reread_changed(self._set.serving(), paths)
        self._rewatch()

    def poll(self) -> None:
        """Find by stat(2) what nobody told."""
        if self._seen != self._signature() or self.files.error:
            self._reread_settings()
        self._reloader.poll(self._set.serving())
        self._rewatch()

    def _signature(self) -> watchplan.Signature:
        return watchplan.signature(watchplan.settings_paths(self.settings))

    # --- changes ----------------------------------------------------------------------
    def reload(self, done: Callable[[dict[str, Any]], None] = lambda _: None) -> None:
        """Read mepd.conf and every endpoint again; what is wrong changes nothing.

        ``done`` gets the report (see ReloadReport) when all of it has been checked.
        """
        log.info("rereading the configuration")
        self.files.error = ""  # who asks is told again
        report = ReloadReport(done)
        report.settings(*self._reread_settings())
        for endpoint in self._set.serving():
            report.expect(endpoint.name)
            self._reloader.reread(endpoint, report.told)
            self._host.serve(endpoint)  # the credentials may be others
        report.complete()
        self._rewatch()

    def preview(self, done: Callable[[dict[str, Any]], None]) -> None:
        """The report of a reload that changes nothing."""
        report = ReloadReport(done)
        try:
            change, _ = self._read_settings()
            report.settings(change.changed, change.waiting, "")
        except ConfigError as e:
            report.settings("", "", str(e))
        for endpoint in self._set.serving():
            report.expect(endpoint.name)
            self._reloader.preview(endpoint, report.told)
        report.complete()

    def is_rereading(self) -> bool:
        """Whether an endpoint's files are still being checked."""
        return self._reloader.is_busy

    def _read_settings(self) -> tuple[reconfigure.Change, StartRules]:
        """What mepd.conf says now. Raises ConfigError."""
        try:
            change = reconfigure.read(self.settings, self.endpoints, self._privileged)
            return change, self._host.rules_for(change.settings)
        except (OSError, KeyError) as e:
            raise ConfigError(str(e.args[0]) if isinstance(e, KeyError) else str(e)) from None

    def _reread_settings(self) -> tuple[str, str, str]:
        """What changed, what waits for the next start, and what is wrong."""
        self._seen = self._signature()
        try:
            change, rules = self._read_settings()
        except ConfigError as e:
            reason = str(e)
            others = map(str, watchplan.settings_paths(self.settings))
            if self.files.refuse(reason, str(self.settings.path), others):
                log.error(
                    "configuration not reloaded -- %s; the previous one remains in force", reason
                )
            return "", "", reason
        if self.files.error:
            log.info("%s is good again", self.files.blamed)
        self._apply(change, rules)
        return change.changed, change.waiting, ""

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
        self._set.apply(change.plan, change.snapshots)
        if old.service != change.settings.service:
            for endpoint in self._set.serving():
                self._host.serve(endpoint)
        if old.programs != change.settings.programs:
            self.programs.change(change.settings.programs)

    def forget_drained(self, name: str) -> None:
        """A drained endpoint goes, or is stopped, when the last of its UEPs has gone."""
        if self._set.forget_drained(name):
            self._rewatch()

    # --- what administrators ask ------------------------------------------------------
    def knows(self, name: str) -> bool:
        """Whether an endpoint of this name is served or configured."""
        return name in self.endpoints or self._section(name) is not None

    def _section(self, name: str) -> EndpointSection | None:
        return next((s for s in self.settings.endpoints if s.name == name), None)

    def start_endpoint(self, name: str, directory: Path) -> None:
        """Serve a folder that mepd.conf does not name. Raises ConfigError or OSError."""
        self._set.start_by_hand(name, directory)
        self._rewatch()

    def hold(self, name: str) -> None:
        """Take no more requests for an endpoint, until :meth:`resume`; its UEPs go on."""
        self._set.hold(name)

    def resume(self, name: str) -> None:
        """Serve an endpoint as its folder is now. Raises ConfigError or OSError."""
        self._set.resume(name, self._section(name))
        self._rewatch()
