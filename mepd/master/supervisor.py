"""The master put together: which part talks to which."""

from __future__ import annotations

import functools
import gc
import logging
import os
import signal
from collections.abc import Callable
from typing import Any

from mepd import log as mepdlog
from mepd.config.accountpolicy import account_policy
from mepd.config.settings import EndpointSnapshot, Settings
from mepd.master import control, credentials, spawner, views
from mepd.master.console import Console
from mepd.master.consumer import ConsumerLink
from mepd.master.endpoints import Endpoint, remember_id
from mepd.master.ends import Ends
from mepd.master.history import History, Kind
from mepd.master.liveconfig import LiveConfig
from mepd.master.logs import LogWriter
from mepd.master.loop import Loop
from mepd.master.observers import Observers
from mepd.master.programs import Program
from mepd.master.reaper import Reaper
from mepd.master.service import Service
from mepd.master.shutdown import Shutdown
from mepd.master.starts import StartRules, Starts
from mepd.master.stopping import Stopper
from mepd.master.table import UepTable
from mepd.master.taskaudit import TaskAudit
from mepd.master.verbs import Verbs
from mepd.master.workers import Worker
from mepd.model import Activity
from mepd.posix import descriptors, process, syscalls
from mepd.posix.accounts import Account
from mepd.posix.notify import Notifier
from mepd.wire import worker as wire

log = logging.getLogger(__name__)


STOPPING = (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT)
SIGNALS = (*STOPPING, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)
_SIGSTKFLT = 16
IGNORED = (
    signal.SIGPIPE, signal.SIGALRM, signal.SIGVTALRM, signal.SIGPROF, signal.SIGIO,
    signal.SIGPWR, _SIGSTKFLT, signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU,
    *range(signal.SIGRTMIN, signal.SIGRTMAX + 1),
)  # fmt: skip
"""What would end or stop the master and means nothing to it. Not what a fault raises."""
_REASON_MAX = 1000
"""Characters of what a worker says that mepctl status shows."""


def start_rules(settings: Settings, worker: Account, debug: bool) -> StartRules:
    """The rules for starts that the settings and this process's own rights give."""
    section = settings.mepd
    return StartRules(
        policy=account_policy(settings, (os.geteuid(), worker.uid), (worker.gid,)),
        max_ueps=section.max_ueps,
        max_ueps_per_user=section.max_ueps_per_user,
        start_timeout=section.start_timeout,
        privileged=os.geteuid() == 0,
        debug=debug,
        mapper_timeout=section.mapper_timeout,
        render_timeout=section.render_timeout,
    )


class Supervisor:
    """Owns the loop and everything on it. Nothing happens before :meth:`run`."""

    def __init__(
        self,
        settings: Settings,
        snapshots: list[EndpointSnapshot],
        worker: Account,
        debug: bool,
        notifier: Notifier,
        log_writer: LogWriter,
    ) -> None:
        syscalls.set_subreaper()
        descriptors.keep_spare()
        self.loop = Loop()
        self.table = UepTable()
        self.history = History()
        self.exit_code = os.EX_OK
        self._worker_account = worker
        self._debug = debug
        self._started = self.loop.clock()
        self._records = mepdlog.RecordChannel()
        self._reaper = Reaper()
        self._log_writer = log_writer
        log_writer.attach(self.loop, self._reaper)
        log_dir = settings.mepd.logfile.parent
        self.config = LiveConfig(
            self.loop, self, settings, snapshots,
            lambda section: Program(self.loop, self._reaper, section, log_dir),
            os.geteuid() == 0,
        )  # fmt: skip
        self.endpoints = self.config.endpoints
        self._make_workers(worker)
        self._make_uep_parts(worker)
        self.programs = self.config.programs.programs
        self._shutdown = Shutdown(
            self.loop, self.table, self.stopper, self._ends, self.workers, self.programs,
            self.loop.stop, self._task_audit.close, self._overdue,
        )  # fmt: skip
        self._service = Service(
            self.loop, notifier, self.table, self.endpoints.values, self.config.is_rereading,
            lambda: log_writer.alert,
        )  # fmt: skip
        self._observers = Observers(
            self.loop, self.history, self.table, self.endpoints.values, lambda: self.workers,
            log_writer, lambda: self.config.settings.metrics,
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
            wire.FROM_WATCHER, self.config.watch_plan,
        )  # fmt: skip
        self.workers = [self._consumer, self._watcher]
        self.link = ConsumerLink(self._consumer.send)
        self._consumer.on_message = self._from_consumer
        self._consumer.on_up = self._consumer_up
        self._consumer.on_down = self._consumer_down
        self.config.begin(self._watcher)

    def _make_uep_parts(self, account: Account) -> None:
        patience = self.config.settings.mepd.stopwaitsecs
        self.stopper = Stopper(self.loop, self.table, patience, self.history)
        find = self.endpoints.get
        self._task_audit = TaskAudit(self.loop, self._reaper, account, lambda: list(self.table))
        self._ends = Ends(self.loop, self._reaper, self.table, self.link, find, self.history)
        self.starts = Starts(
            self.loop, self._reaper, self.table, self.link, self.stopper, self._ends,
            self._records, self.rules_for(self.config.settings), os.getpid(), find, self.history,
            self._task_audit,
        )  # fmt: skip
        self._ends.when_ended = self.config.forget_drained

    # --- life -------------------------------------------------------------------------
    def listen(self) -> None:
        """Open the control socket. Raises OSError or KeyError."""
        section = self.config.settings.control
        server = control.listen(section.file, section.chmod, section.chown)
        _, gid = control.owner(section.chown)
        verbs = Verbs(self, gid)
        self._control = control.ControlServer(
            self.loop, server, verbs.handle, verbs.is_administrator
        )

    def run(self, on_terminal: bool) -> int:
        """Supervise until told to stop. Returns the exit code. Raises LoopFailure."""
        self._console = Console(self.loop, on_terminal)
        self.loop.watch(self._records.reader.fileno(), self._records.drain)
        self._install_signals()
        self.config.programs.start()
        for worker in self.workers:
            worker.start()
        self._look_at_idle()
        self._service.begin()
        self._observers.begin()
        spawner.preload_launch()
        gc.collect()
        gc.freeze()  # so that a child's collector does not copy the master's pages
        try:
            self.loop.run()
        finally:
            self._console.close()
            if self._control is not None:
                self._control.close()
                control.remove(self.config.settings.control.file)
        self._reaper.end_strays()
        log.info("mepd stopped")
        return self.exit_code

    def _install_signals(self) -> None:
        for number in STOPPING:
            self.loop.on_signal(number, functools.partial(self.shutdown, number))
        self.loop.on_signal(signal.SIGCHLD, self._reaper.collect)
        self.loop.on_signal(signal.SIGHUP, self.reload)
        self.loop.on_signal(signal.SIGUSR1, self._dump)
        self.loop.on_signal(signal.SIGUSR2, self._reopen_logs)
        for number in IGNORED:
            signal.signal(number, signal.SIG_IGN)
        signal.pthread_sigmask(signal.SIG_SETMASK, ())  # also what whoever started mepd blocked

    def _look_at_idle(self) -> None:
        """Often enough for the shortest heartbeat among the UEPs, and for one that begins
        meanwhile: the others may say that theirs is a day."""
        periods = [u.activity.heartbeat_period for u in self.table if u.activity]
        delay = max(1.0, min([Activity.heartbeat_period, *periods]) / 3)
        self.loop.call_later(delay, self._look_at_idle)  # first: whatever happens, look again
        self.stopper.reap_idle()

    def emergency(self) -> None:
        """Kill everything at once: the loop is beyond repair."""
        children = [uep.child for uep in self.table] + self._task_audit.processes()
        children += [w.process for w in self.workers if w.process is not None]
        children += [p.process for p in self.programs if p.process is not None]
        try:
            process.kill_all(children)
        except Exception:  # what is left dies with the master
            log.exception("not all could be killed")

    def _overdue(self) -> None:
        """An orderly stop that does not come to its end is ended, and not called orderly."""
        log.critical("the stop took too long: killing everything")
        self.exit_code = os.EX_SOFTWARE
        self.loop.stop()
        self.emergency()

    # --- what administrators ask (Commander) -------------------------------------------
    def now(self) -> float:
        return self.loop.clock()

    def status(self) -> dict[str, Any]:
        now = self.loop.clock()
        state = "STOPPING" if self._shutdown.signum else "RUNNING"
        ueps = list(self.table)
        return {
            "master": views.master(
                self._started, now, state, str(self.config.settings.path), self.config.files
            ),
            "workers": [views.worker(w, now) for w in self.workers],
            "programs": [views.program(p, now) for p in self.programs],
            "endpoints": [views.endpoint(e, ueps) for e in self.endpoints.values()],
        }

    def shutdown(self, signum: int) -> None:
        self.starts.accepting = False
        self._service.stopping()
        self.config.programs.close()
        self._shutdown.begin(signum)

    def reload(self, done: Callable[[dict[str, Any]], None] = lambda _: None) -> None:
        self._service.reloading()
        self.config.reload(done)

    def settings(self) -> Settings:
        return self.config.settings

    # --- what a changed configuration needs (liveconfig.Host) ---------------------------
    def rules_for(self, settings: Settings) -> StartRules:
        return start_rules(settings, self._worker_account, self._debug)

    def adopt(self, settings: Settings, rules: StartRules) -> None:
        self.starts.rules = rules
        self.stopper.stopwaitsecs = settings.mepd.stopwaitsecs
        level = "DEBUG" if self._debug else settings.mepd.loglevel.upper()
        logging.getLogger().setLevel(level)

    def serve(self, endpoint: Endpoint) -> None:
        """Have the consumer register and serve an endpoint, or take over what changed."""
        service = self.config.settings.service
        self._consumer.send(
            wire.ServeEndpoint(
                name=endpoint.name,
                endpoint_id=endpoint.endpoint_id,
                service_url=service.url,
                registration=endpoint.snapshot.registration,
                heartbeat_period=endpoint.snapshot.heartbeat_period,
                amqp_port=endpoint.snapshot.amqp_port,
                credential=credentials.read(service.credentials),
                want_identities=not self.starts.rules.privileged,
            )
        )

    def drain(self, endpoint: Endpoint) -> None:
        self._consumer.send(wire.DrainEndpoint(endpoint.name))

    def drop(self, endpoint: Endpoint) -> None:
        self._consumer.send(wire.DropEndpoint(endpoint.name))

    def in_use(self, endpoint: Endpoint) -> bool:
        """Whether it has UEPs, or failures that are yet to be told through its link."""
        name = endpoint.name
        return any(u.endpoint == name for u in self.table) or self.link.waits_for(name)

    # --- workers ----------------------------------------------------------------------
    def _consumer_up(self) -> None:
        for endpoint in self.endpoints.values():
            if not endpoint.draining or self.in_use(endpoint):
                self.serve(endpoint)
            if endpoint.draining:  # only the ends of its UEPs are to be told
                self.drain(endpoint)
        self.link.ready()

    def _consumer_down(self) -> None:
        """Its tokens are dead; the broker gives its unsettled deliveries to the next one."""
        self.link.lost()
        self.starts.consumer_lost()
        for endpoint in self.endpoints.values():
            endpoint.registered = False
            self._link_changed(endpoint, False, "amqp-consumer is not running")

    def _from_consumer(self, message: Any) -> None:
        if isinstance(message, wire.StartRequested):
            self.starts.requested(message)
        elif isinstance(message, wire.NoticeSent):
            self.link.notice_sent(message)
        elif isinstance(message, wire.NoticeDone):
            self.config.forget_drained(self.link.notice_done(message))
        else:
            self._about_endpoint(message)

    def _about_endpoint(self, message: Any) -> None:
        name = message.endpoint if isinstance(message, wire.RequestRefused) else message.name
        endpoint = self.endpoints.get(name)
        if endpoint is None:
            return
        if isinstance(message, wire.EndpointRegistered):
            remember_id(endpoint, message.endpoint_id)
            endpoint.registered = True
            self._announce(endpoint)
        elif isinstance(message, wire.OwnIdentities):
            endpoint.own_identities = tuple(message.identities)
        elif isinstance(message, wire.EndpointOnline):
            endpoint.registered = endpoint.registered or message.online
            self._link_changed(endpoint, message.online, message.reason)
        elif isinstance(message, wire.RegistrationFailed):
            endpoint.registered = False
            self._link_changed(endpoint, False, message.reason)
        else:  # RequestRefused, the last of FROM_CONSUMER
            endpoint.failures += 1
            self.history.note(Kind.FAILED, name, stage="REQUEST", reason=message.reason)

    def _link_changed(self, endpoint: Endpoint, online: bool, reason: str) -> None:
        reason = reason[:_REASON_MAX]
        if (endpoint.online, endpoint.reason) != (online, reason):
            kind = Kind.ONLINE if online else Kind.OFFLINE
            self.history.note(kind, endpoint.name, reason=reason, public="")
        endpoint.online, endpoint.reason = online, reason

    def _announce(self, endpoint: Endpoint) -> None:
        if endpoint.announced or endpoint.endpoint_id is None:
            return
        endpoint.announced = True
        self._task_audit.begin(endpoint)
        log.info("========== Endpoint Manager begins: %s", endpoint.endpoint_id)
        if self._console is not None:
            self._console.endpoint(endpoint.endpoint_id)

    # --- signals ----------------------------------------------------------------------
    def _dump(self) -> None:
        """SIGUSR1: the table into the log."""
        log.info("%d user endpoints", len(self.table))
        for uep in self.table:
            log.info("%s pid %d %s %s", uep.state.value, uep.process.pid, uep.label, uep.activity)

    def _reopen_logs(self) -> None:
        """SIGUSR2: the log was moved away."""
        self._log_writer.reopen()
        self._task_audit.reopen()
        log.info("log reopened")
