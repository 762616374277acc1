"""The task desk: what becomes of each delivery and each result. Knows no broker, no engine.

A delivery is acked when the broker has confirmed the task's result and the journal knows
it for good, not before. The journal and the result store tell a redelivered task's past.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from mepd.errors import WireError
from mepd.uep import failures, outbox, taskaudit
from mepd.uep.acks import Acks, Sync, at_once
from mepd.uep.decisions import Action, TaskPolicy, decide
from mepd.uep.engines.base import Engine, EngineTask
from mepd.uep.idle import Movement
from mepd.uep.intake import Intake
from mepd.uep.journal import Journal
from mepd.uep.outbox import Alert, Outbox
from mepd.uep.results import ResultStore
from mepd.uep.taskfeed import Token
from mepd.uep.taskheaders import read_headers, task_id_of

log = logging.getLogger(__name__)


class Audit(Protocol):
    """Where audit records go; see mepd.uep.taskaudit."""

    def note(
        self,
        task_id: str,
        function_id: str,
        state: str,
        text: str = "",
        then: Callable[[], None] | None = None,
    ) -> None: ...


class Outlet(outbox.Outlet, Protocol):
    """Where results and acks go."""

    def ack(self, tokens: list[Token]) -> None: ...


@dataclass
class _Entry:
    """A task that is not settled; more than one token if it was delivered again."""

    tokens: list[Token] = field(default_factory=list)
    function_id: str = ""


class TaskDesk:
    """See the module. ``moved`` is called after every task received and result sent.

    Task messages that do not fit into memory wait below ``folder``. With ``audit`` a task
    runs only when its records are in the administrator's log. ``sync(then)`` has the journal
    synced soon, and calls ``then``; see mepd.uep.syncer.
    """

    engine: Engine

    def __init__(
        self,
        policy: TaskPolicy,
        journal: Journal,
        store: ResultStore,
        moved: Callable[[], None],
        clock: Callable[[], float] = time.monotonic,
        folder: Path | None = None,
        audit: Audit | None = None,
        sync: Sync = at_once,
    ) -> None:
        self._sync = sync
        self._acks = Acks(sync, self._ack)
        self._policy = policy
        self._audit = audit
        window = (lambda: self.engine.capacity) if audit is not None else None
        self._intake = Intake(
            folder, lambda task: self.engine.submit(task), self._not_kept, window
        )
        self._journal = journal
        self._alert = Alert(clock)
        self.outbox = Outbox(policy.endpoint_id, store, self._alert)
        self._moved = moved
        self._clock = clock
        self._outlet: Outlet | None = None
        self._entries: dict[str, _Entry] = {}
        self._received = 0
        self._done = 0
        self._last_move = clock()

    def attach(self, engine: Engine, outlet: Outlet) -> None:
        self.engine = engine
        self._outlet = self.outbox.outlet = outlet

    @property
    def movement(self) -> Movement:
        return Movement(self._last_move, self._received, self._done, len(self._entries))

    # --- deliveries -------------------------------------------------------------------
    def deliver(self, token: Token, headers: dict[str, Any], body: bytes) -> None:
        try:
            task_id = task_id_of(headers, body)
        except WireError as e:
            log.error("a task message without a usable id is dropped: %s", e)
            self._ack([token])
            return
        past = self._journal.past(task_id)
        known, stored = task_id in self._entries, task_id in self.outbox
        action = decide(known, stored, past, self._policy.retry_lost)
        if action is Action.ACK:
            log.info("task %s was finished before; acknowledged", task_id)
            self._ack([token])
            return
        self._entries.setdefault(task_id, _Entry()).tokens.append(token)
        if action is not Action.JOIN:
            self._received += 1
            self._touch()
            function_id = headers.get("function_uuid")
            self._entries[task_id].function_id = str(function_id or "")[:64].lower()
            self._note(task_id, taskaudit.RECEIVED)
            self._take(action, task_id, headers, body)

    def _note(
        self, task_id: str, state: str, text: str = "", then: Callable[[], None] | None = None
    ) -> None:
        entry = self._entries.get(task_id)
        if self._audit is not None and entry is not None:
            self._audit.note(task_id, entry.function_id, state, text, then)

    def _take(self, action: Action, task_id: str, headers: dict[str, Any], body: bytes) -> None:
        if action is Action.SEND:
            self.outbox.send_kept()
        elif action is Action.LOST:
            log.warning("task %s had begun when the endpoint died", task_id)
            self._fail(task_id, failures.ENDPOINT_LOST, failures.LOST_TEXT)
        else:
            self._run(task_id, headers, body)

    def _run(self, task_id: str, headers: dict[str, Any], body: bytes) -> None:
        try:
            task = read_headers(task_id, headers)
        except WireError as e:
            self._fail(task_id, failures.REMOTE_ERROR, f"Failed to start task: {e}")
            return
        allowed = self._policy.allowed_functions
        if allowed is not None and task.function_id not in allowed:
            text = failures.not_allowed(task.function_id, self._policy.endpoint_id)
            log.warning("%s", text)
            self._note(task_id, taskaudit.FAILED, "Function not permitted on endpoint")
            self._fail(task_id, failures.NOT_ALLOWED, text)
            return
        refusal = self.engine.refusal(task.resources)
        if refusal is not None:
            self._fail(task_id, failures.REMOTE_ERROR, f"Failed to start task: {refusal}")
            return
        ready = EngineTask(task_id, body, task.serializers, task.resources)
        self._intake.add(ready, cleared=self._audit is None)
        self._note(task_id, taskaudit.EXEC_START, then=lambda: self._intake.clear(task_id))

    def _not_kept(self, task_id: str, text: str) -> None:
        self._fail(task_id, failures.REMOTE_ERROR, f"Failed to start task: {text}")

    def _fail(self, task_id: str, code: str, text: str) -> None:
        details = failures.base_details(self._policy.endpoint_id)
        self.finished(task_id, failures.error_result(task_id, code, text, details))

    # --- the engine's events ----------------------------------------------------------
    def begun(self, task_ids: Iterable[str]) -> None:
        ids = list(task_ids)
        try:
            self._journal.begun(ids)
        except OSError as e:
            self.not_written(e)
        self._sync()
        for task_id in ids:
            self._note(task_id, taskaudit.RUNNING)

    def finished(self, task_id: str, packed: bytes) -> None:
        self._note(task_id, taskaudit.EXEC_END)
        self._intake.forget(task_id)
        self.outbox.put(task_id, packed)

    # --- the broker's events ----------------------------------------------------------
    def confirmed(self, task_ids: list[str]) -> None:
        """The broker has these results: settle their tasks."""
        try:
            self._journal.finished(task_ids)
        except OSError as e:
            self.not_written(e)
        tokens: list[Token] = []
        for task_id in task_ids:
            self.outbox.confirmed(task_id)
            entry = self._entries.pop(task_id, None)
            if entry is not None:
                tokens += entry.tokens
        self._done += len(task_ids)
        self._acks.settled(tokens)
        self.outbox.go_on()
        self._touch()

    def catch_up(self) -> None:
        """Another attempt at what disk and broker have not taken."""
        try:
            self._journal.flush()
        except OSError as e:
            self.not_written(e)
        self._sync()
        self.outbox.save()
        self.outbox.send_kept()

    # --- the end ----------------------------------------------------------------------
    def release_waiting(self) -> None:
        """Give up the tasks that have not begun: unacked, they are the broker's again."""
        for task_id in [*self._intake.drop(), *self.engine.drop_waiting()]:
            self._entries.pop(task_id, None)

    def abandon(self, task_ids: Iterable[str]) -> None:
        """Answer for tasks that were running when the engine was stopped.

        Where lost tasks are to be run again they stay unacked and go back to the broker.
        """
        if self._policy.retry_lost:
            return
        for task_id in task_ids:
            self._fail(task_id, failures.ENDPOINT_LOST, failures.STOPPED_TEXT)

    def settle(self) -> None:
        """Acknowledge now whatever the broker has confirmed."""
        try:
            self._journal.sync()
        except OSError as e:
            self.not_written(e)
        self._acks.flush()

    def not_written(self, error: OSError) -> None:
        self._alert("the task journal cannot be written: %s", error)

    def _ack(self, tokens: list[Token]) -> None:
        if self._outlet is not None:
            self._outlet.ack(tokens)

    def _touch(self) -> None:
        self._last_move = self._clock()
        self._moved()
