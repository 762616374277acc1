"""No task is left alone: a user endpoint that goes with tasks open is started again.

After some starts that brought no result its tasks fail, with an error that says why.
"""

from __future__ import annotations

import asyncio
import logging
import time

from mepd.errors import MepdError
from mepd.gateway import names, registry, taskstore
from mepd.gateway.amqp import Link
from mepd.gateway.database import Database
from mepd.gateway.dispatch import is_listening
from mepd.gateway.failures import BrokerDown, StartFailed, StoreUnavailable
from mepd.gateway.locks import Locks
from mepd.gateway.presence import Presence
from mepd.gateway.relay import Relay, error_result
from mepd.gateway.starts import Starts, Uep, uep_of

log = logging.getLogger(__name__)

DELAYS_S = (0.0, 2.0, 10.0)
LISTENING_S = 2.0
"""Until one is looked at again that is silent but takes tasks."""
STRIKES = 3
"""Starts in a row without any result before the tasks are given up."""


class Reviver:
    """``patience``: seconds to wait for the endpoint itself to come back."""

    def __init__(
        self,
        db: Database,
        link: Link,
        presence: Presence,
        starts: Starts,
        patience: float,
        locks: Locks,
    ) -> None:
        self._db = db
        self._link = link
        self._presence = presence
        self._starts = starts
        self._patience = patience
        self._locks = locks
        self._work: dict[str, asyncio.Task[None]] = {}
        self._again: set[str] = set()
        self._strikes: dict[str, tuple[int, float]] = {}  # how many, since when
        self._reasons: dict[str, tuple[str, float | None]] = {}  # why, and when it was back
        self._online: dict[str, asyncio.Event] = {}
        self.relay: Relay | None = None

    def online(self, ident: str) -> None:
        event = self._online.pop(ident, None)
        if event is not None:
            event.set()
        if ident in self._reasons:
            self._reasons[ident] = self._reasons[ident][0], time.time()

    def gone(self, uep_id: str, reason: str = "") -> None:
        """The user endpoint has gone, for the reason that was reported."""
        if reason:
            self._reasons[uep_id] = reason, None
        if uep_id in self._work:
            self._again.add(uep_id)
            return
        worker = asyncio.ensure_future(self._look_after(uep_id))
        self._work[uep_id] = worker
        worker.add_done_callback(lambda _task: self._looked_after(uep_id))

    def _looked_after(self, uep_id: str) -> None:
        self._work.pop(uep_id, None)
        if uep_id in self._again:  # it went once more meanwhile
            self._again.discard(uep_id)
            self.gone(uep_id)

    async def _look_after(self, uep_id: str) -> None:
        try:
            row = await self._db.aread(registry.get_uep, uep_id)
            if row is None or not await self._db.aread(taskstore.open_tasks, uep_id):
                self._forget(uep_id)
                return
            if self._presence.online(uep_id):
                return
            if await is_listening(self._link, uep_id):
                # It takes its tasks: on its way out, or not heard since the broker is in alarm,
                # and then this is known at the alarm's end
                asyncio.get_running_loop().call_later(LISTENING_S, self.gone, uep_id)
                return
            strikes = await self._strike(uep_id)
            log.info("user endpoint %s has gone with tasks open", uep_id)
            why = "" if strikes > STRIKES else await self._revive(uep_of(row))
            if why is not None:
                await self._give_up(uep_id, await self._reason(uep_id) or why)
        except BrokerDown:  # or it does not answer
            asyncio.get_running_loop().call_later(DELAYS_S[-1], self.gone, uep_id)
        except StoreUnavailable as e:
            log.error("user endpoint %s cannot be looked after: %s", uep_id, e)
            asyncio.get_running_loop().call_later(DELAYS_S[-1], self.gone, uep_id)
        except Exception:
            log.exception("looking after user endpoint %s", uep_id)

    def _forget(self, uep_id: str) -> None:
        """What it has gone for concerns no task any more."""
        self._strikes.pop(uep_id, None)
        self._reasons.pop(uep_id, None)

    async def _reason(self, uep_id: str) -> str:
        """Why it has gone, as was told; not what was before it came back and brought results:
        this end may be for another reason."""
        reason, back = self._reasons.get(uep_id, ("", None))
        if back is not None and await self._db.aread(taskstore.has_result_since, uep_id, back):
            return ""
        return reason

    async def _strike(self, uep_id: str) -> int:
        """Count one more; the first again if a result has come, whoever has stored it."""
        now = time.time()
        count, since = self._strikes.get(uep_id, (0, now))
        if count and await self._db.aread(taskstore.has_result_since, uep_id, since):
            count, since = 0, now
        self._strikes[uep_id] = count + 1, since
        return count + 1

    async def _revive(self, uep: Uep) -> str | None:
        """Start it again. Returns None when it is online, or why that failed.

        Raises BrokerDown.
        """
        why = ""
        for delay in DELAYS_S:
            await asyncio.sleep(delay)
            if not await self._await_endpoint(uep.endpoint_id):
                return f"endpoint {uep.endpoint_id} has been offline for too long"
            try:
                await self._starts.ensure(uep)
                return None
            except StartFailed as e:
                why = str(e)
        return why

    async def _await_endpoint(self, endpoint_id: str) -> bool:
        if self._presence.online(endpoint_id):
            return True
        event = self._online.setdefault(endpoint_id, asyncio.Event())
        try:
            async with asyncio.timeout(self._patience):
                await event.wait()
        except TimeoutError:
            return False
        return True

    async def _give_up(self, uep_id: str, why: str) -> None:
        """Give every open task an error for its result, and empty the queue."""
        text = f"The user endpoint went away before this task was done: {why}".rstrip(": ")
        async with self._locks.of(uep_id):
            ids = await self._db.aread(taskstore.open_tasks, uep_id)
            log.warning("%d tasks of user endpoint %s fail: %s", len(ids), uep_id, why)
            if self.relay is not None:
                lost = [(i, uep_id, error_result(i, "ENDPOINT_LOST", text)) for i in ids]
                await self.relay.finish(lost)
            try:
                queue = names.task_queue(uep_id)
                await self._link.session.call("queue_purge", queue=queue)
            except MepdError as e:
                log.info("queue of user endpoint %s is not emptied: %s", uep_id, e)
            else:  # with it went what another gateway may have sent meanwhile
                await self._db.awrite(taskstore.send_again, uep_id)
        self._forget(uep_id)
