"""The user endpoint at work: one loop that joins broker, engine, manager and clock."""

from __future__ import annotations

import logging
import os
import signal
from collections.abc import Callable
from pathlib import Path

from mepd.uep import idle
from mepd.uep.amqp import IOLoop
from mepd.uep.broker import Broker, BrokerEvents
from mepd.config.uepconfig import UepConfig
from mepd.uep.credentials import Credentials
from mepd.uep.decisions import TaskPolicy
from mepd.uep.document import Document
from mepd.uep.engines.base import EngineContext
from mepd.uep.engines.registry import make
from mepd.uep.idletimer import IdleTimer
from mepd.uep.journal import Journal
from mepd.uep.notify import Notify
from mepd.uep.refusal import report_failure
from mepd.uep.reporter import Reporter, status_message, title_state
from mepd.uep.results import ResultStore
from mepd.uep.signals import Signals
from mepd.uep.snippet import Snippet
from mepd.uep.syncer import Syncer
from mepd.uep.taskaudit import TaskAudit
from mepd.uep.tasks import TaskDesk
from mepd.uep.title import title

log = logging.getLogger(__name__)

FINISH_TIME = 1.0
"""Seconds that running tasks are given to finish after the order to stop."""
SETTLE_TIME = 2.0
"""Seconds to wait for the broker's confirms, and again for its goodbye."""
PREFETCH_SPARE = 64
"""Tasks to hold beyond those running and next, while confirms are on their way."""
JOURNAL = "tasks.journal"


class Endpoint:
    """One life of a UEP; ``run`` returns its exit code. Raises OSError, ConfigError."""

    def __init__(
        self,
        name: str,
        user: str,
        folder: Path,
        document: Document,
        config: UepConfig,
        set_title: Callable[[str], None],
    ) -> None:
        self._name = name
        self._user = user
        self._document = document
        self._config = config
        self._loop = IOLoop()
        allowed = document.allowed_functions
        if allowed is None:
            allowed = config.allowed_functions
        policy = TaskPolicy(
            document.endpoint_id,
            frozenset(allowed) if allowed is not None else None,
            config.retry_lost_tasks,
        )
        self._prefetch = 2 * config.engine.max_workers + PREFETCH_SPARE
        journal = Journal(folder / JOURNAL, self._prefetch)
        self._syncer = Syncer(self._loop, journal.sync, lambda e: self._desk.not_written(e))
        self._desk = TaskDesk(
            policy, journal, ResultStore(folder), self._moved,
            folder=folder, audit=self._make_audit(), sync=self._syncer.request,
        )  # fmt: skip
        context = EngineContext(document.endpoint_id, folder, title(user, name, "worker"))
        self._engine = make(config.engine, context, self._desk, self._loop)
        self._credentials = Credentials(document)
        self._broker = self._make_broker()
        self._desk.attach(self._engine, self._broker)
        self._signals = Signals(self._loop, self._on_signal, self._on_child)
        self._reporter = Reporter(
            self._loop,
            config,
            self._engine,
            lambda: self._desk.movement,
            title_state(user, name, set_title),
        )
        if document.notify_fd is not None:
            self._reporter.notify = Notify(
                self._loop, document.notify_fd, self._on_refreshed, self._on_gone
            )
        self._idle = IdleTimer(
            self._loop, self._reporter.limits, lambda: self._desk.movement, self._on_idle
        )
        self._snippet: Snippet | None = None
        self._stopping = False
        self._halted = False
        self._closing = False
        self._exit_code = os.EX_OK

    def _make_audit(self) -> TaskAudit | None:
        fd = self._document.audit_fd
        if fd is None:
            return None
        return TaskAudit(
            self._loop, fd, lambda why: self._stop(f"the audit log cannot be written: {why}")
        )

    def _make_broker(self) -> Broker:
        events = BrokerEvents(
            deliver=self._desk.deliver,
            confirmed=self._desk.confirmed,
            unconfirmed=self._desk.outbox.unconfirmed,
            too_large=self._desk.outbox.too_large,
            overdue=self._desk.outbox.overdue,
            results_up=self._desk.outbox.send_kept,
            settled=self._on_settled,
            ready=self._on_ready,
            refused=self._on_refused,
        )
        creds, port = self._credentials.current, self._config.amqp_port
        return Broker(self._loop, creds, port, self._prefetch, events)

    # --- start ------------------------------------------------------------------------
    def run(self) -> int:
        self._reporter.report()
        if self._config.endpoint_setup:
            setup = self._config.endpoint_setup
            self._snippet = Snippet("endpoint_setup", setup, self._on_setup)
        else:
            self._begin()
        try:
            self._loop.start()
        except Exception:
            log.critical("an error of mepd-uep itself; it ends", exc_info=True)
            self._engine.stop()
            return os.EX_SOFTWARE
        finally:
            self._engine.close()
            self._syncer.stop()
        return self._exit_code

    def _on_setup(self, status: int) -> None:
        self._snippet = None
        if self._stopping:
            return
        if status:
            text = f"endpoint_setup failed with exit code {status}"
            report_failure(self._document, text, self._config.amqp_port)
            self._leave(os.EX_CONFIG)
        else:
            self._begin()

    def _begin(self) -> None:
        self._engine.start()
        self._broker.start()

    def _on_ready(self) -> None:
        self._reporter.ready = True
        log.info("ready: %s", self._name)
        self._beat()
        self._idle.arm()

    def _on_refused(self, text: str) -> None:
        if not self._reporter.ready and not self._credentials.renewed():
            log.critical("the broker refuses the credentials: %s", text)
            self._engine.stop()
            self._leave(os.EX_UNAVAILABLE)

    # --- heartbeats, movement ---------------------------------------------------------
    def _beat(self) -> None:
        if self._stopping:
            return
        self._loop.call_later(self._config.heartbeat_period, self._beat)
        self._broker.check()
        self._desk.catch_up()
        self._publish_status(active=True)
        self._reporter.report()

    def _publish_status(self, active: bool) -> None:
        self._broker.publish_status(
            status_message(
                self._document, self._config, self._user, self._engine.status(), active
            )
        )

    def _moved(self) -> None:
        if not self._stopping:
            self._reporter.moved()
            if not self._desk.movement.outstanding:
                self._idle.arm()
        elif not self._engine.running:
            self._halt()

    def _on_idle(self, limit: idle.Limit) -> None:
        if limit is idle.Limit.SOFT:
            self._stop("Idle heartbeats reached.  (idle_heartbeats_soft)")
        else:
            self._stop("Shutting down due to idle heartbeats HARD limit.", finish=0.0)

    # --- events from outside ----------------------------------------------------------
    def _on_child(self) -> None:
        self._engine.reap()
        if self._snippet is not None:
            self._snippet.reap()

    def _on_signal(self, number: int) -> None:
        self._stop(f"received {signal.Signals(number).name}")

    def _on_refreshed(self) -> None:
        self._broker.hurry()
        if self._reporter.ready and not self._stopping:
            self._publish_status(active=True)  # whoever sent them waits for a sign of life

    def _on_gone(self) -> None:
        log.warning("the manager has gone; stopping at once")
        if self._snippet is not None:
            self._snippet.kill()
        self._engine.stop()
        self._leave(os.EX_OK)

    # --- the end ----------------------------------------------------------------------
    def _stop(self, reason: str, finish: float = FINISH_TIME) -> None:
        if self._stopping:
            return
        log.info("stopping: %s", reason)
        self._stopping = True
        if self._snippet is not None:
            self._snippet.kill()
        self._broker.stop_consuming()
        self._desk.release_waiting()
        self._reporter.closing = True
        self._reporter.report()
        if self._engine.running and finish:
            self._loop.call_later(finish, self._halt)
        else:
            self._halt()

    def _halt(self) -> None:
        """The engine's end; then the last results and the last status report."""
        if self._halted:
            return
        self._halted = True
        self._desk.abandon(self._engine.stop())
        self._publish_status(active=False)
        self._loop.call_later(SETTLE_TIME, self._close)
        self._on_settled()

    def _on_settled(self) -> None:
        if self._halted and not self._broker.unsettled:
            self._close()

    def _close(self) -> None:
        if self._closing:
            return
        self._closing = True
        self._desk.settle()
        if self._desk.outbox.unsent:
            log.warning("%d results wait on disk for the next start", self._desk.outbox.unsent)
        self._loop.call_later(SETTLE_TIME, self._on_closed)
        self._broker.stop(self._on_closed)

    def _on_closed(self) -> None:
        teardown = self._config.endpoint_teardown
        if self._snippet is None and teardown and self._reporter.ready:
            self._tear_down(teardown)
        elif self._snippet is None or self._snippet.name != "endpoint_teardown":
            self._leave(os.EX_OK)

    def _tear_down(self, script: str) -> None:
        try:
            self._snippet = Snippet("endpoint_teardown", script, lambda _s: self._leave(os.EX_OK))
        except OSError as e:
            log.error("endpoint_teardown cannot be run: %s", e)
            self._leave(os.EX_OK)

    def _leave(self, code: int) -> None:
        self._exit_code = code
        self._loop.stop()
