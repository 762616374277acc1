"""From a start request to a running UEP, as the master sees it.

A name is launched at most once at a time: a second request for it waits for the same
outcome. A request for a UEP that runs is mapped again by a launch child of its own, so
that a revoked mapping is noticed and no other account can touch the UEP.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from mepd import log as mepdlog
from mepd.config.launchplan import AccountPolicy, LaunchPlan
from mepd.config.settings import MepdSection
from mepd.errors import WireError
from mepd.master import decisions, spawner
from mepd.master.channel import Channel
from mepd.master.consumer import ConsumerLink
from mepd.master.endpoints import Endpoint
from mepd.master.ends import Ends
from mepd.master.history import History, Kind
from mepd.master.loop import Loop
from mepd.master.reaper import Reaper
from mepd.master.rechecks import Rechecks
from mepd.master.reports import Reports
from mepd.master.states import Event, next_state
from mepd.master.stopping import Stopper
from mepd.master.table import Uep, UepTable
from mepd.master.taskaudit import TaskAudit
from mepd.model import Stage, StartRequest, UepState
from mepd.posix import process
from mepd.posix.process import ProcessId
from mepd.wire import codec, start_request
from mepd.wire.activity import Refreshed
from mepd.wire.framing import WORKER_FRAME_MAX
from mepd.wire.stages import FROM_LAUNCH, Failed, Mapped, SessionOpened, Verdict
from mepd.wire.worker import StartRequested

log = logging.getLogger(__name__)

_WORD_MAX = 50
_TEXT_MAX = 2000
_OPAQUE = "(PermissionError) see your system administrator"


@dataclass(frozen=True)
class StartRules:
    """What mepd.conf says about starts; replaced as a whole by a reload."""

    policy: AccountPolicy
    max_ueps: int
    max_ueps_per_user: int
    start_timeout: float
    privileged: bool
    debug: bool = False
    mapper_timeout: float = MepdSection.mapper_timeout
    render_timeout: float = MepdSection.render_timeout


class Starts:
    """Handles start requests until their UEP runs or has failed."""

    def __init__(
        self,
        loop: Loop,
        reaper: Reaper,
        table: UepTable,
        consumer: ConsumerLink,
        stopper: Stopper,
        ends: Ends,
        records: mepdlog.RecordChannel,
        rules: StartRules,
        master_pid: int,
        endpoint_of: Callable[[str], Endpoint | None],
        history: History | None = None,
        audit: TaskAudit | None = None,
    ) -> None:
        self._loop = loop
        self._reaper = reaper
        self._table = table
        self._consumer = consumer
        self._stopper = stopper
        self._ends = ends
        self._records = records
        self.rules = rules
        self._master_pid = master_pid
        self._endpoint_of = endpoint_of
        self._history = history or History()
        self._audit = audit
        self._reports = Reports(loop, stopper, self._on_first_report)
        self._rechecks = Rechecks(
            loop, table, consumer, self._history, endpoint_of, self._once_more,
            self._not_mapped_again,
        )  # fmt: skip
        self.accepting = True
        ends.relaunch = self._relaunch

    # --- requests ---------------------------------------------------------------------
    def requested(self, message: StartRequested) -> None:
        """A delivery of the consumer's."""
        try:
            request = start_request.from_json(message.request)
        except WireError as e:
            log.error("the consumer sent a bad start request: %s", e)
            self._consumer.settle([message.token])
            return
        endpoint = self._endpoint_of(message.endpoint)
        if endpoint is not None and endpoint.held:
            return  # unsettled on purpose: the broker keeps it until the endpoint is started
        if not self._consumer.is_new(message.token, request):
            log.info("the start request for %s came again; it has been answered", request.name)
            return
        if endpoint is None or endpoint.endpoint_id != request.mep_id or endpoint.draining:
            log.error(
                "start request for %s: endpoint %s is not served", request.name, message.endpoint
            )
            text = "the endpoint is not served here"
            self._answer(request, message.endpoint, text, {message.token}, text)
            return
        if not self.accepting:
            return  # unsettled on purpose: the broker keeps it for the next master
        running = self._table.get(request.name)
        if running is None:
            self._start(endpoint, request, {message.token})
        else:
            self._again(running, endpoint, request, {message.token})

    def _relaunch(self, endpoint_name: str, request: StartRequest, tokens: set[str]) -> None:
        endpoint = self._endpoint_of(endpoint_name)
        if endpoint is not None and self.accepting and not endpoint.draining:
            self._start(endpoint, request, tokens)

    def _once_more(self, endpoint_name: str, request: StartRequest, tokens: set[str]) -> None:
        """The UEP of a request ended while it was mapped; there may be another by now."""
        endpoint, running = self._endpoint_of(endpoint_name), self._table.get(request.name)
        if running is None or endpoint is None:
            self._relaunch(endpoint_name, request, tokens)
        else:
            self._again(running, endpoint, request, tokens)

    def _again(
        self, uep: Uep, endpoint: Endpoint, request: StartRequest, tokens: set[str]
    ) -> None:
        """A request for a name that exists."""
        if (uep.endpoint, uep.request.effective_identity) != (
            endpoint.name,
            request.effective_identity,
        ):
            log.critical(
                "start request for %s by identity %s, but it belongs to identity %s: refused",
                uep.name, request.effective_identity, uep.request.effective_identity,
                extra=uep.about,
            )  # fmt: skip
            self._history.note(
                Kind.FAILED, endpoint.name, name=request.name, id=request.uep_id,
                username=request.username, identity=request.effective_identity, stage="REFUSED",
                reason=f"it belongs to identity {uep.request.effective_identity}", public="",
            )  # fmt: skip
            self._consumer.settle(tokens)
        elif uep.state in (UepState.RUNNING, UepState.STOPPING, UepState.STARTING) and uep.uid >= 0:
            self._launch(endpoint, request, tokens, beside=uep)
        else:
            uep.tokens |= tokens

    def _answer(
        self, request: StartRequest, endpoint: str, text: str, tokens: set[str], reason: str
    ) -> None:
        """A start that failed before it had a UEP: ``text`` for its user, ``reason`` not."""
        public = f"Unable to start user endpoint process [exit code: {int(Stage.PREPARE)}; {text}]"
        self._history.note(
            Kind.FAILED, endpoint, name=request.name, id=request.uep_id,
            username=request.username, identity=request.effective_identity,
            stage=Stage.PREPARE.name, code=int(Stage.PREPARE), reason=reason, public=public,
        )  # fmt: skip
        self._consumer.notify_failure(endpoint, request.amqp_creds, public, tokens)

    # --- launching --------------------------------------------------------------------
    def _start(self, endpoint: Endpoint, request: StartRequest, tokens: set[str]) -> None:
        refusal = decisions.total_refusal(len(self._table), self.rules.max_ueps)
        if refusal:
            log.warning("start of %s refused: %s", request.name, refusal)
            endpoint.failures += 1
            text = "(PermissionError) too many user endpoints"
            self._answer(request, endpoint.name, text, tokens, refusal)
            return
        unaudited = self._audit.refusal(endpoint) if self._audit else None
        if unaudited:
            log.error("start of %s refused: %s", request.name, unaudited)
            endpoint.failures += 1
            self._answer(request, endpoint.name, _OPAQUE, tokens, unaudited)
            return
        self._launch(endpoint, request, tokens, beside=None)

    def _plan(self, endpoint: Endpoint, request: StartRequest) -> LaunchPlan:
        rules = self.rules
        return LaunchPlan(
            snapshot=endpoint.snapshot,
            request=request,
            policy=rules.policy,
            master_pid=self._master_pid,
            privileged=rules.privileged,
            own_identities=endpoint.own_identities,
            mapper_timeout=min(rules.mapper_timeout, rules.start_timeout),
            render_timeout=min(rules.render_timeout, rules.start_timeout),
            debug=rules.debug,
        )

    def _launch(
        self, endpoint: Endpoint, request: StartRequest, tokens: set[str], beside: Uep | None
    ) -> None:
        """Fork a launch child; with ``beside`` it only maps, for a UEP that is there."""
        try:
            launched = spawner.launch(
                self._plan(endpoint, request), self._records,
                running=None if beside is None else beside.file,
            )  # fmt: skip
        except OSError as e:
            log.error("cannot fork for %s: %s", request.name, e)
            endpoint.failures += 1
            text = "(OSError) the system is out of resources"
            self._answer(request, endpoint.name, text, tokens, f"cannot fork: {e}")
            return
        child = process.identify(launched.pid) or ProcessId(launched.pid, 0.0)
        command = " ".join(endpoint.snapshot.uep_command).replace("{name}", request.name)
        uep = Uep(
            name=request.name,
            endpoint=endpoint.name,
            request=request,
            child=child,
            process=child,
            command=command,
            started=self._loop.clock(),
            reports=_reports(endpoint),
            tokens=tokens,
            lifeline=launched.lifeline,
            file=None if beside else launched.file,
            audit=launched.audit,
            audit_path=endpoint.snapshot.audit_log_path,
        )
        uep.stages = Channel(
            self._loop,
            launched.stages,
            lambda frame: self._on_stage(uep, beside, frame),
            lambda reason: self._on_stage_closed(uep, beside, reason),
            WORKER_FRAME_MAX,
        )
        self._reports.listen(uep, launched.notify)
        timeout = self._loop.call_later(self.rules.start_timeout, lambda: self._too_slow(uep))
        uep.timers.append(timeout)
        if beside is None:
            endpoint.starts += 1
            self._table.add(uep)
            self._reaper.watch(launched.pid, lambda status: self._ends.ended(uep, status))
        else:
            self._rechecks.open.add(uep)
            self._reaper.watch(launched.pid, lambda _: self._rechecks.ended(uep, beside))

    def _too_slow(self, uep: Uep) -> None:
        if uep.state in (UepState.LAUNCHING, UepState.STARTING):
            reason = f"not ready within start_timeout ({self.rules.start_timeout:g} s)"
            uep.failure = uep.failure or Failed(
                "TIMEOUT", int(Stage.PREPARE), reason,
                f"Unable to start user endpoint process{_for_user(uep)} [exit code: "
                f"{int(Stage.PREPARE)}; (TimeoutError) the user endpoint did not start in time]",
            )  # fmt: skip
            if uep.lifeline is None:
                self._stopper.kill_soon(uep, reason)
            else:
                self._stopper.give_up(uep, reason)

    # --- stages -----------------------------------------------------------------------
    def _on_stage(self, uep: Uep, beside: Uep | None, frame: Any) -> None:
        """Raises WireError, which closes the channel, for what is out of its order: when it
        renders the user's options the child is the user."""
        message = codec.decode(frame, FROM_LAUNCH)
        if isinstance(message, Mapped) and not uep.user:
            if beside is None:
                self._on_mapped(uep, message)
            else:
                self._rechecks.mapped(uep, beside, message)
        elif isinstance(message, Refreshed) and beside is not None and uep.user:
            self._rechecks.refreshed(uep, beside)
        elif isinstance(message, SessionOpened) and uep.lifeline is not None and uep.user:
            self._on_session(uep, message.pid)
        elif isinstance(message, Failed):
            uep.failure = Failed(
                message.stage[:_WORD_MAX], message.code,
                message.reason[:_TEXT_MAX], message.public[:_TEXT_MAX],
            )  # fmt: skip
        else:
            raise WireError(f"{type(message).__name__} out of order")

    def _on_session(self, uep: Uep, pid: int) -> None:
        """``pid`` is the UEP, if it is the session process's child; it may be gone by now."""
        if uep.process == uep.child and process.parent_of(pid) == uep.child.pid:
            uep.process = process.identify(pid) or uep.process

    def _on_mapped(self, uep: Uep, mapped: Mapped) -> None:
        refusal = self._late_refusal(uep, mapped)
        uep.user, uep.uid = mapped.user, mapped.uid
        assert uep.stages is not None
        if refusal:
            log.warning(
                "start of %s for %s refused: %s", uep.name, mapped.user, refusal, extra=uep.about
            )
            uep.failure = Failed(
                "REFUSED", int(Stage.PREPARE), refusal,
                f"Unable to start user endpoint process for {mapped.user} [exit code: "
                f"{int(Stage.PREPARE)}; (PermissionError) too many user endpoints]",
            )  # fmt: skip
            uep.uid = -1
        uep.stages.send_message(Verdict(refusal is None, refusal or ""))

    def _late_refusal(self, uep: Uep, mapped: Mapped) -> str | None:
        endpoint = self._endpoint_of(uep.endpoint)
        if not self.accepting or endpoint is None:
            return "mepd is shutting down"
        count = self._table.count_of_user(mapped.uid, besides=uep)
        return decisions.user_refusal(
            count, mapped.user, self.rules.max_ueps_per_user, endpoint.snapshot.max_ueps_per_user
        )

    def _on_stage_closed(self, uep: Uep, beside: Uep | None, reason: str) -> None:
        """End of file: the exec succeeded, or the child is dying and will be reaped."""
        uep.stages = None
        if reason:
            log.error("launch child of %s: %s", uep.name, reason, extra=uep.about)
            self._stopper.kill(uep, "its launch child broke the protocol")
        if beside is not None or uep.failure is not None or uep.state is not UepState.LAUNCHING:
            return
        if not process.exec_confirmed(uep.process.pid):
            return
        uep.state = next_state(uep.state, Event.EXECED)
        uep.execed = True
        if self._audit is not None:
            self._audit.watch(uep)
        log.info(
            "Creating new user endpoint (pid: %d) %s", uep.process.pid, uep.label, extra=uep.about
        )
        log.info(
            "Command process successfully forked for '%s' (Globus effective identity: %s).",
            uep.user, uep.request.effective_identity, extra=uep.about,
        )  # fmt: skip
        self._history.note_uep(Kind.STARTED, uep, seconds=self._age(uep))
        if not uep.reports:
            self._running(uep)

    def _age(self, uep: Uep) -> float:
        return round(self._loop.clock() - uep.started, 3)

    def _on_first_report(self, uep: Uep) -> None:
        if uep.state is UepState.LAUNCHING and uep.stages is not None:
            uep.stages.drain()  # the exec comes before the report, also in the log
        if uep.state in (UepState.LAUNCHING, UepState.STARTING):
            self._running(uep)

    def _running(self, uep: Uep) -> None:
        uep.state = next_state(uep.state, Event.REPORTED)
        uep.ready = True
        log.info(
            "User endpoint is ready (pid: %d) %s", uep.process.pid, uep.label, extra=uep.about
        )
        self._history.note_uep(Kind.READY, uep, seconds=self._age(uep))
        for timer in uep.timers:
            timer.cancel()
        uep.timers.clear()
        self._consumer.settle(uep.tokens)
        uep.tokens.clear()
        uep.comes_again = False

    def consumer_lost(self) -> None:
        """Every token is dead: the broker gives what is not settled to the next consumer."""
        for uep in (*self._table, *self._rechecks.open):
            uep.comes_again = uep.comes_again or bool(uep.tokens)
            uep.tokens.clear()

    def _not_mapped_again(self, endpoint: str, request: StartRequest, tokens: set[str]) -> None:
        self._answer(request, endpoint, _OPAQUE, tokens, "the launch child ended before its word")


def _for_user(uep: Uep) -> str:
    return f" for {uep.user}" if uep.user else ""


def _reports(endpoint: Endpoint) -> bool:
    """Whether the endpoint's UEPs report to mepd; globus-compute-endpoint's do not."""
    return endpoint.snapshot.uep_command[0].rpartition("/")[2] != "globus-compute-endpoint"
