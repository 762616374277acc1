"""A request for a UEP that runs: its identity is mapped again, by a launch child of its own.

So a mapping that was revoked is noticed, and no other account can touch the UEP.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

from mepd.master.consumer import ConsumerLink
from mepd.master.endpoints import Endpoint
from mepd.master.history import History, Kind
from mepd.master.loop import Loop
from mepd.master.table import Uep, UepTable
from mepd.model import StartRequest, UepState
from mepd.wire.activity import Refreshed
from mepd.wire.stages import Mapped, Verdict

log = logging.getLogger(__name__)


class Rechecks:
    """``once_more`` and ``refuse`` are called with (endpoint, request, tokens): for a UEP that
    ended meanwhile, and for a person who was not mapped again, for an unknown reason."""

    def __init__(
        self,
        loop: Loop,
        table: UepTable,
        consumer: ConsumerLink,
        history: History,
        endpoint_of: Callable[[str], Endpoint | None],
        once_more: Callable[[str, StartRequest, set[str]], None],
        refuse: Callable[[str, StartRequest, set[str]], None],
    ) -> None:
        self._loop = loop
        self._table = table
        self._consumer = consumer
        self._history = history
        self._endpoint_of = endpoint_of
        self._once_more = once_more
        self.open: set[Uep] = set()
        self._refuse = refuse

    def mapped(self, check: Uep, running: Uep, mapped: Mapped) -> None:
        """Refresh the credentials of the account's own UEP only."""
        assert check.stages is not None
        there = self._table.get(running.name) is running
        own = mapped.uid == running.uid
        check.stages.send_message(Verdict(False, "it is running", refresh=there and own))
        check.user, check.uid = mapped.user, mapped.uid
        if not own:
            self._another_account(check, running, mapped)
        elif there:
            self._keep(check, running)
        # else it ended meanwhile: ended() starts anew

    def _another_account(self, check: Uep, running: Uep, mapped: Mapped) -> None:
        log.critical(
            "start request for %s maps to %s, but it runs as %s: refused",
            running.name, mapped.user, running.user, extra=running.about,
        )  # fmt: skip
        self._history.note_uep(
            Kind.FAILED, check, stage="REFUSED", reason=f"it runs as {running.user}", public=""
        )
        self._consumer.settle(check.tokens)
        check.tokens = set()

    def _keep(self, check: Uep, running: Uep) -> None:
        """Keep the request for the grace period; its credentials are being written."""
        log.info(
            "User endpoint %s is already running (pid: %d); updating credentials then caching"
            " arguments in case it's about to shut down", running.name, running.process.pid,
            extra=running.about,
        )  # fmt: skip
        endpoint = self._endpoint_of(running.endpoint)
        grace = endpoint.snapshot.grace_period if endpoint else 0.0
        running.revive = check.request
        running.revive_until = self._loop.clock() + grace

    def refreshed(self, check: Uep, running: Uep) -> None:
        """The UEP's file has the new credentials; let it know, and the service."""
        if self._table.get(running.name) is not running:
            return  # it ended meanwhile: ended() starts anew
        self._history.note_uep(Kind.REFRESHED, running)
        if running.notify is not None:
            running.notify.send_message(Refreshed())
        if running.state is UepState.RUNNING:
            self._consumer.settle(check.tokens)
        else:
            running.tokens |= check.tokens
        check.tokens = set()

    def ended(self, check: Uep, running: Uep) -> None:
        """The launch child is gone; what nobody answered yet is answered here."""
        check.release()
        self.open.discard(check)
        tokens, check.tokens = check.tokens, set()
        if check.failure is not None:
            self._failed(check, tokens)
        elif tokens and self._table.get(running.name) is not running:
            self._once_more(check.endpoint, check.request, tokens)
        elif tokens:
            self._refuse(check.endpoint, check.request, tokens)

    def _failed(self, check: Uep, tokens: set[str]) -> None:
        failure = check.failure
        assert failure is not None
        log.error("start request for %s: %s", check.name, failure.reason, extra=check.about)
        self._history.note_uep(
            Kind.FAILED, check, stage=failure.stage, code=failure.code, reason=failure.reason,
            public=failure.public, seconds=round(self._loop.clock() - check.started, 3),
        )  # fmt: skip
        if tokens or not check.comes_again:
            self._consumer.notify_failure(
                check.endpoint, check.request.amqp_creds, failure.public, tokens
            )
