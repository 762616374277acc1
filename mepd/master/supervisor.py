"""The master put together: which part talks to which."""

from __future__ import annotations

import functools
import gc
import json
import logging
import os
import signal
from pathlib import Path
from typing import Any

import setproctitle

from mepd import log as mepdlog
from mepd.config import endpoint as endpoint_config
from mepd.config import ini, logindefs
from mepd.config.launchplan import AccountPolicy
from mepd.config.settings import EndpointSnapshot, Settings
from mepd.config.watchplan import WatchPlan
from mepd.errors import ConfigError, ControlError
from mepd.master import control, views
from mepd.master.console import Console
from mepd.master.consumer import ConsumerLink
from mepd.master.endpoints import Endpoint, remember_id
from mepd.master.ends import Ends
from mepd.master.loop import Loop
from mepd.master.programs import Program, start_order
from mepd.master.reaper import Reaper
from mepd.master.reload import Reloader
from mepd.master.shutdown import Shutdown
from mepd.master.starts import StartRules, Starts
from mepd.master.stopping import Stopper
from mepd.master.table import UepTable
from mepd.master.verbs import Verbs
from mepd.master.workers import Worker
from mepd.posix import accounts, process, syscalls
from mepd.posix.accounts import Account
from mepd.wire import worker as wire

log = logging.getLogger(__name__)


STOPPING = (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT)
SIGNALS = (*STOPPING, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)


def _gids(settings: Settings) -> tuple[int, ...] | None:
    """The groups of ``allow_groups``; None if it is not set. Raises ConfigError."""
    names = settings.mepd.allow_groups
    try:
        return tuple(accounts.group_id(name) for name in names) if names else None
    except KeyError as e:
        raise ConfigError(f"[mepd] allow_groups: {e.args[0]}", str(settings.path)) from None


def start_rules(settings: Settings, worker: Account, debug: bool) -> StartRules:
    """The rules for starts that the settings and this process's own rights give."""
    section = settings.mepd
    own = {0, os.geteuid(), worker.uid}
    for program in settings.programs:
        if program.user:
            own.add(accounts.lookup(program.user).uid)
    policy = AccountPolicy(
        min_uid=logindefs.uid_min() if section.min_uid is None else section.min_uid,
        deny_users=section.deny_users,
        allow_gids=_gids(settings),
        forbidden_uids=tuple(sorted(own)),
    )
    return StartRules(
        policy=policy,
        max_ueps=section.max_ueps,
        max_ueps_per_user=section.max_ueps_per_user,
        start_timeout=section.start_timeout,
        privileged=os.geteuid() == 0,
        debug=debug,
    )


class Supervisor:
    """Owns the loop and everything on it. Nothing happens before :meth:`run`."""

    def __init__(
        self, settings: Settings, snapshots: list[EndpointSnapshot], worker: Account, debug: bool
    ) -> None:
        syscalls.set_subreaper()
        self.loop = Loop()
        self.settings = settings
        self.table = UepTable()
        self.exit_code = os.EX_OK
        self._worker_account = worker
        self._debug = debug
        self._started = self.loop.clock()
        self._records = mepdlog.RecordChannel()
        self._reaper = Reaper()
        self.endpoints = {s.name: Endpoint(s, s.endpoint_id) for s in snapshots}
        self._make_workers(worker)
        self._make_uep_parts(worker)
        log_dir = settings.mepd.logfile.parent
        self.programs = [Program(self.loop, self._reaper, p, log_dir) for p in settings.programs]
        self._shutdown = Shutdown(
            self.loop, self.table, self.stopper, self._ends, self.workers, self.programs,
            self.loop.stop,
        )  # fmt: skip
        self._control: control.ControlServer | None = None
        self._console: Console | None = None

    def _make_workers(self, account: Account) -> None:
        self._consumer = Worker(
            self.loop, self._reaper, "amqp-consumer", "mepd.consumer.main:run", account,
            wire.FROM_CONSUMER,
        )  # fmt: skip
        self._watcher = Worker(
            self.loop, self._reaper, "config-watcher", "mepd.watcher.main:run", account,
            wire.FROM_WATCHER, self._watch_plan,
        )  # fmt: skip
        self.workers = [self._consumer, self._watcher]
        self.link = ConsumerLink(self._consumer.send)
        self._reloader = Reloader(self._watcher.send, self._serve)
        self._consumer.on_message = self._from_consumer
        self._consumer.on_up = self._consumer_up
        self._consumer.on_down = self._consumer_down
        self._watcher.on_message = self._from_watcher
        self._watcher.on_down = self._reloader.forget

    def _make_uep_parts(self, account: Account) -> None:
        self.stopper = Stopper(self.loop, self.table, self.settings.mepd.stopwaitsecs)
        find = self.endpoints.get
        self._ends = Ends(self.loop, self._reaper, self.table, self.link, find)
        self.starts = Starts(
            self.loop, self._reaper, self.table, self.link, self.stopper, self._ends,
            self._records, start_rules(self.settings, account, self._debug), os.getpid(), find,
        )  # fmt: skip

    # --- life -------------------------------------------------------------------------
    def listen(self) -> None:
        """Open the control socket. Raises OSError or KeyError."""
        section = self.settings.control
        server = control.listen(section.file, section.chmod, section.chown)
        _, gid = control.owner(section.chown)
        verbs = Verbs(self, gid)
        self._control = control.ControlServer(self.loop, server, verbs.handle)

    def run(self, on_terminal: bool) -> int:
        """Supervise until told to stop. Returns the exit code. Raises LoopFailure."""
        setproctitle.setproctitle("mepd: master")
        self._console = Console(self.loop, on_terminal)
        self.loop.watch(self._records.reader.fileno(), self._records.drain)
        self._install_signals()
        for program in start_order(self.programs):
            if program.section.autostart:
                program.start()
        for worker in self.workers:
            worker.start()
        self._look_at_idle()
        gc.collect()
        gc.freeze()  # so that a child's collector does not copy the master's pages
        try:
            self.loop.run()
        finally:
            self._console.close()
            if self._control is not None:
                self._control.close()
                self.settings.control.file.unlink(missing_ok=True)
        log.info("mepd stopped")
        return self.exit_code

    def _install_signals(self) -> None:
        for number in STOPPING:
            self.loop.on_signal(number, functools.partial(self.shutdown, number))
        self.loop.on_signal(signal.SIGCHLD, self._reaper.collect)
        self.loop.on_signal(signal.SIGHUP, self.reload)
        self.loop.on_signal(signal.SIGUSR1, self._dump)
        self.loop.on_signal(signal.SIGUSR2, self._reopen_logs)
        signal.signal(signal.SIGPIPE, signal.SIG_IGN)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)

    def _look_at_idle(self) -> None:
        """Often enough for the shortest heartbeat among the UEPs, seldom when there is none."""
        self.stopper.reap_idle()
        periods = [u.activity.heartbeat_period for u in self.table if u.activity]
        delay = max(1.0, min(periods, default=30.0) / 3)
        self.loop.call_later(delay, self._look_at_idle)

    def emergency(self) -> None:
        """Kill everything at once: the loop is beyond repair."""
        children = [uep.child for uep in self.table]
        children += [w.process for w in self.workers if w.process is not None]
        children += [p.process for p in self.programs if p.process is not None]
        process.kill_all(children)

    # --- what administrators ask (Commander) -------------------------------------------
    def now(self) -> float:
        return self.loop.clock()

    def status(self) -> dict[str, Any]:
        now = self.loop.clock()
        state = "STOPPING" if self._shutdown.signum else "RUNNING"
        ueps = list(self.table)
        return {
            "master": views.master(self._started, now, state, str(self.settings.path)),
            "workers": [views.worker(w, now) for w in self.workers],
            "programs": [views.program(p, now) for p in self.programs],
            "endpoints": [views.endpoint(e, ueps) for e in self.endpoints.values()],
        }

    def shutdown(self, signum: int) -> None:
        self.starts.accepting = False
        self._shutdown.begin(signum)

    def reload(self) -> None:
        """Read the INI file and every endpoint again; what is wrong changes nothing."""
        log.info("rereading the configuration")
        try:
            settings = ini.load(self.settings.path, self.settings.environ)
            rules = start_rules(settings, self._worker_account, self._debug)
        except (ConfigError, OSError, KeyError) as e:
            log.error("configuration not reloaded -- %s", e)
            return
        self.settings = settings
        self.starts.rules = rules
        self.stopper.stopwaitsecs = settings.mepd.stopwaitsecs
        logging.getLogger().setLevel("DEBUG" if self._debug else settings.mepd.loglevel.upper())
        self._reload_endpoints(settings)

    def _reload_endpoints(self, settings: Settings) -> None:
        wanted = {e.name: e for e in settings.endpoints}
        for name in [n for n in self.endpoints if n not in wanted]:
            log.info("endpoint %s is no longer configured: draining", name)
            self.endpoints[name].draining = True
            self._consumer.send(wire.DropEndpoint(name))
        for name, section in wanted.items():
            endpoint = self.endpoints.get(name)
            if endpoint is not None:
                endpoint.draining = False
                self._reloader.reread(endpoint)
                continue
            try:
                self._add_endpoint(name, section.directory)
            except (ConfigError, OSError) as e:
                log.error("endpoint %s is not started -- %s", name, e)
        self._watcher.restart()

    def _add_endpoint(self, name: str, directory: Path) -> None:
        """Raises ConfigError or OSError."""
        snapshot = read_endpoint(name, directory, self.starts.rules.privileged)
        self.endpoints[name] = Endpoint(snapshot, snapshot.endpoint_id)
        self._serve(self.endpoints[name])

    def start_endpoint(self, name: str, directory: Path) -> None:
        """Serve a folder that the configuration does not name. Raises ControlError."""
        endpoint = self.endpoints.get(name)
        if endpoint is not None and not endpoint.draining:
            raise ControlError(f"endpoint {name} is served already", os.EX_UNAVAILABLE)
        try:
            self._add_endpoint(name, directory)
        except (ConfigError, OSError) as e:
            raise ControlError(str(e), os.EX_CONFIG) from None
        self._watcher.restart()

    # --- workers ----------------------------------------------------------------------
    def _watch_plan(self) -> WatchPlan:
        folders = {self.settings.path.parent}
        for endpoint in self.endpoints.values():
            folders.add(endpoint.snapshot.directory)
            if endpoint.snapshot.mapping_path is not None:
                folders.add(endpoint.snapshot.mapping_path.parent)
        return WatchPlan(tuple(sorted(f for f in folders if f.is_dir())))

    def _serve(self, endpoint: Endpoint) -> None:
        """Have the consumer register and serve an endpoint, or do so again."""
        service = self.settings.service
        self._consumer.send(
            wire.ServeEndpoint(
                name=endpoint.name,
                endpoint_id=endpoint.endpoint_id,
                service_url=service.url,
                registration=endpoint.snapshot.registration,
                heartbeat_period=endpoint.snapshot.heartbeat_period,
                amqp_port=endpoint.snapshot.amqp_port,
                credential=read_credential(service.credentials),
                want_identities=not self.starts.rules.privileged,
            )
        )

    def _consumer_up(self) -> None:
        for endpoint in self.endpoints.values():
            if not endpoint.draining:
                self._serve(endpoint)
        self.link.ready()

    def _consumer_down(self) -> None:
        """Its tokens are dead; the broker gives its unsettled deliveries to the next one."""
        self.link.lost()
        for uep in self.table:
            uep.tokens.clear()
        for endpoint in self.endpoints.values():
            endpoint.online, endpoint.reason = False, "amqp-consumer is not running"

    def _from_consumer(self, message: Any) -> None:
        if isinstance(message, wire.StartRequested):
            self.starts.requested(message)
        elif isinstance(message, wire.NoticeDone):
            self.link.notice_done(message)
        else:
            self._about_endpoint(message)

    def _about_endpoint(self, message: Any) -> None:
        name = message.endpoint if isinstance(message, wire.RequestRefused) else message.name
        endpoint = self.endpoints.get(name)
        if endpoint is None:
            return
        if isinstance(message, wire.EndpointRegistered):
            remember_id(endpoint, message.endpoint_id)
            self._announce(endpoint)
        elif isinstance(message, wire.OwnIdentities):
            endpoint.own_identities = tuple(message.identities)
        elif isinstance(message, wire.EndpointOnline):
            endpoint.online, endpoint.reason = message.online, message.reason
        elif isinstance(message, wire.RegistrationFailed):
            endpoint.online, endpoint.reason = False, message.reason
        elif isinstance(message, wire.RequestRefused):
            endpoint.failures += 1

    def _announce(self, endpoint: Endpoint) -> None:
        if endpoint.announced or endpoint.endpoint_id is None:
            return
        endpoint.announced = True
        log.info("========== Endpoint Manager begins: %s", endpoint.endpoint_id)
        if self._console is not None:
            self._console.endpoint(endpoint.endpoint_id)

    def _from_watcher(self, message: Any) -> None:
        if isinstance(message, wire.Changed):
            self._reloader.reread_changed(list(self.endpoints.values()), message.paths)
        elif isinstance(message, wire.Validated):
            self._reloader.validated(message)

    # --- signals ----------------------------------------------------------------------
    def _dump(self) -> None:
        """SIGUSR1: the table into the log."""
        log.info("%d user endpoints", len(self.table))
        for uep in self.table:
            log.info("%s pid %d %s %s", uep.state.value, uep.process.pid, uep.label, uep.activity)

    def _reopen_logs(self) -> None:
        """SIGUSR2: the log was moved away."""
        mepdlog.reopen()
        log.info("log reopened")


def read_endpoint(name: str, directory: Path, privileged: bool) -> EndpointSnapshot:
    """The snapshot of an endpoint's folder. Raises ConfigError or OSError."""
    snapshot = endpoint_config.parse_files(name, directory, endpoint_config.read_files(directory))
    for warning in snapshot.warnings:
        log.warning("endpoint %s: %s", name, warning)
    if privileged and snapshot.mappings is None:
        raise ConfigError(
            "identity_mapping_config_path is required when mepd runs as root",
            str(directory / "config.yaml"),
        )
    if not privileged and snapshot.mapping_path is not None:
        log.warning(
            "`identity_mapping_config_path` specified, but process is not privileged (e.g.,"
            " not `root`) -- identity mapping configuration will be ignored: %s",
            snapshot.mapping_path,
        )
    return snapshot


def read_credential(path: Path | None) -> dict[str, Any]:
    """What proves this site's administrator to the service; {} if there is none."""
    if path is None:
        return {}
    try:
        value = json.loads(path.read_text())
    except (OSError, ValueError) as e:
        log.error("credentials file %s is unusable: %s", path, type(e).__name__)
        return {}
    return value if isinstance(value, dict) else {}
