"""When a UEP has ended: the log line, the notice to the user, the revival."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable

from mepd.master.consumer import ConsumerLink
from mepd.master.endpoints import Endpoint
from mepd.master.history import RUN, History, Kind
from mepd.master.loop import Loop
from mepd.master.reaper import Reaper
from mepd.master.reports import BROKE_PROTOCOL
from mepd.master.states import Event, describe_end, ended_well, next_state
from mepd.master.stopping import BY_HAND
from mepd.master.table import Uep, UepTable
from mepd.model import StartRequest, UepState

log = logging.getLogger(__name__)

_SWEEP_AGAIN = 0.02
_LAUNCH = "LAUNCH"
_REST = 9
"""Times what a look at orphans took, if it found none to kill, until the next."""


class Ends:
    """What follows the end of a UEP's process, once it has been reaped."""

    def __init__(
        self,
        loop: Loop,
        reaper: Reaper,
        table: UepTable,
        consumer: ConsumerLink,
        endpoint_of: Callable[[str], Endpoint | None],
        history: History | None = None,
    ) -> None:
        self._loop = loop
        self._reaper = reaper
        self._table = table
        self._consumer = consumer
        self._endpoint_of = endpoint_of
        self._history = history or History()
        self._sweeping = False
        self._rest = 0.0
        self._sessions: set[int] = set()
        reaper.spares, reaper.on_orphan = self._has_uep, self._orphan_ended
        self.relaunch: Callable[[str, StartRequest, set[str]], None] = lambda *_: None
        self.when_ended: Callable[[str], None] = lambda _endpoint: None

    def ended(self, uep: Uep, status: int) -> None:
        """The master's child of ``uep`` was reaped with ``status`` (wait(2))."""
        if uep.state is UepState.STARTING and uep.notify is not None:
            uep.notify.drain()  # a first report may be there that was not read
        before = uep.state
        uep.state = next_state(uep.state, Event.DIED)
        self._drain_last_words(uep)
        uep.release()
        self._table.remove(uep)
        self._end_session(uep.process.pid)
        if before is UepState.LAUNCHING or uep.failure is not None:
            self._start_failed(uep, status)
        else:
            self._stopped(uep, status, before)
        self.when_ended(uep.endpoint)

    def _drain_last_words(self, uep: Uep) -> None:
        """A failure may still be in the stage socket when the death is noticed first."""
        if uep.stages is not None:
            uep.stages.drain()

    def _has_uep(self, uid: int) -> bool:
        """Whether an orphan of this account may belong to a UEP that lives."""
        return any(uep.uid == uid for uep in self._table)

    def _orphan_ended(self) -> None:
        """It may have left children, or be one of those that fork and exit without end."""
        if not self._sweeping:
            self._sweeping = True
            self._loop.call_later(max(_SWEEP_AGAIN, self._rest), self._kill_strays)

    def _end_session(self, session: int) -> None:
        """In the next turn, with all others that end now: each orphan is looked at once."""
        if not self._sessions:
            self._loop.call_later(0.0, self._kill_strays)
        self._sessions.add(session)

    def _kill_strays(self) -> None:
        """Orphans of the dead: double forks and sessions of their own do not save them.

        Only its session tells whose an orphan is. Of one with a session of its own the
        account counts: it is spared for as long as the account has a UEP.
        """
        self._sweeping = False
        sessions, self._sessions = self._sessions, set()
        began = self._loop.clock()
        found = self._reaper.kill_strays(*sessions)
        self._rest = 0.0 if found else _REST * (self._loop.clock() - began)
        if found:
            log.info("killed orphans of user endpoints or programs: %d", found)

    def _start_failed(self, uep: Uep, status: int) -> None:
        endpoint = self._endpoint_of(uep.endpoint)
        if endpoint is not None:
            endpoint.failures += 1
        failure = uep.failure
        if failure is not None:
            log.error(
                "Unable to start user endpoint %s%s [%s, exit code: %d] %s",
                uep.name, f" for {uep.user}" if uep.user else "", failure.stage, failure.code,
                failure.reason, extra=uep.about,
            )  # fmt: skip
            stage, code, how, public = failure.stage, failure.code, failure.reason, failure.public
        else:
            how = uep.stop_reason or describe_end(status)
            log.error("Start of %s ended before its exec: %s", uep.name, how, extra=uep.about)
            stage, code, public = _LAUNCH, _code(status), _died_text(uep, status)
        self._history.note_uep(
            Kind.FAILED, uep, stage=stage, code=code, reason=how, public=public,
            seconds=self._age(uep),
        )  # fmt: skip
        self._tell(uep, public)

    def _age(self, uep: Uep) -> float:
        return round(self._loop.clock() - uep.started, 3)

    def _stopped(self, uep: Uep, status: int, before: UepState) -> None:
        line = "%s (%d) %s%s"
        why = f" ({uep.stop_reason})" if uep.stop_reason else ""
        text = (line, describe_end(status), uep.process.pid, uep.label, why)
        kind, stage, early = _history_of(uep, status)
        self._history.note_uep(
            kind, uep, stage=stage, code=_code(status), reason=describe_end(status) + early + why,
            seconds=self._age(uep),
        )  # fmt: skip
        if ended_well(status) and not _never_began(uep, before):
            log.info(*text, extra=uep.about)
            if before is not UepState.STOPPING or uep.tokens:
                self._revive(uep)
            return
        log.warning(*text, extra=uep.about)
        if (
            before is UepState.STOPPING
            and not uep.stop_reason.startswith("hung")
            and not uep.tokens
        ):
            return  # mepd or an administrator ended it: the UEP said goodbye or was told to
        self._tell(uep, _died_text(uep, status))

    def _revive(self, uep: Uep) -> None:
        """A request that arrived just before the end deserves a UEP."""
        fresh = uep.revive is not None and self._loop.clock() <= uep.revive_until
        if uep.tokens or fresh:
            log.info(
                "User EP stopped within grace period; using cached arguments to start a new"
                " instance (name: %s)", uep.name, extra=uep.about,
            )  # fmt: skip
            tokens, uep.tokens = uep.tokens, set()
            self.relaunch(uep.endpoint, uep.revive or uep.request, tokens)

    def _tell(self, uep: Uep, public: str) -> None:
        tokens, uep.tokens = uep.tokens, set()
        if uep.comes_again and not tokens:
            log.info("The start request for %s comes again", uep.name, extra=uep.about)
            return  # to be begun anew, and answered then
        creds = (uep.revive or uep.request).amqp_creds
        self._consumer.notify_failure(uep.endpoint, creds, public, tokens)


def _history_of(uep: Uep, status: int) -> tuple[Kind, str, str]:
    """As what its end counts, of which stage, and how early it was, in words."""
    if uep.ready:
        return (Kind.STOPPED if ended_well(status) else Kind.DIED), RUN, ""
    if uep.execed:
        return Kind.DIED, RUN, " before its first report"
    return Kind.FAILED, _LAUNCH, " before its exec"  # its start has one outcome, too


def _never_began(uep: Uep, before: UepState) -> bool:
    """Whether it ended before its first report, by itself or for what it said in the place of
    one: begun anew, it would do so again. Or somebody ended it before."""
    unwanted = uep.stop_reason.startswith((BROKE_PROTOCOL, BY_HAND))
    return not uep.ready and (unwanted or before is UepState.STARTING)


def _code(status: int) -> int:
    """The exit code; of a signal, its number, negated."""
    return os.waitstatus_to_exitcode(status)


def _died_text(uep: Uep, status: int) -> str:
    whom = f" for {uep.user}" if uep.user else ""
    if os.WIFSIGNALED(status):
        how = f"terminated by signal {os.WTERMSIG(status)}"
    else:
        how = f"exit code: {os.waitstatus_to_exitcode(status)}"
    if not uep.ready:
        return f"Unable to start user endpoint process{whom} [{how}]"
    return f"User endpoint process{whom} ended unexpectedly [{how}]"
