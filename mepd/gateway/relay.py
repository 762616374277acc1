"""Results in, from the user endpoints; results out, to the task groups' queues.

In: stored and committed, then acknowledged. Out: published, confirmed, then marked.
A result that a crash finds between two of these steps takes the rest of them again.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass

from pika.channel import Channel
from pika.exceptions import AMQPError
from pika.spec import BasicProperties

from mepd.errors import WireError
from mepd.gateway import names, taskstore
from mepd.gateway.amqp import Link, Session
from mepd.gateway.batcher import Batcher
from mepd.gateway.database import Database
from mepd.gateway.failures import BrokerDown, Unroutable
from mepd.gateway.metrics import Metrics
from mepd.gateway.taskstore import Finished
from mepd.wire import message

log = logging.getLogger(__name__)

PREFETCH = 256


@dataclass(frozen=True)
class _Delivery:
    channel: Channel
    tag: int
    uep_id: str
    task_id: str | None  # None: no result, only to be acknowledged
    body: bytes


class Relay:
    """Runs on the loop of the link."""

    def __init__(self, db: Database, link: Link, metrics: Metrics) -> None:
        self._db = db
        self._link = link
        self._metrics = metrics
        self._channel: Channel | None = None
        self._in_flight: set[str] = set()
        self._work: set[asyncio.Task[None]] = set()
        self._incoming: Batcher[_Delivery] = Batcher("results", self._store, PREFETCH)
        self._marks: Batcher[str] = Batcher("relayed results", self._mark)

    async def run(self) -> None:
        await asyncio.gather(self._incoming.run(), self._marks.run())

    async def consume(self, session: Session) -> None:
        """Raises BrokerDown."""
        self._channel = await session.consume(names.RESULTS, PREFETCH, self._deliver)

    def _deliver(self, tag: int, uep_id: str, body: bytes) -> None:
        task_id: str | None = None
        try:
            task_id = message.unpack_result(body).task_id
        except WireError as e:
            log.warning("dropping a message of user endpoint %s: %s", uep_id, e)
        if self._channel is not None:
            self._incoming.add(_Delivery(self._channel, tag, uep_id, task_id, body))

    async def _store(self, batch: list[_Delivery]) -> None:
        results = [(d.task_id, d.uep_id, d.body) for d in batch if d.task_id is not None]
        fresh = await self._db.awrite(taskstore.finish, results)
        self._acknowledge(batch[-1])
        self._metrics.results.inc(len(fresh))
        if len(fresh) < len(results):
            log.info("%d results were not awaited", len(results) - len(fresh))
        await self.send(fresh)

    def _acknowledge(self, last: _Delivery) -> None:
        """All deliveries up to this one; those of a lost channel come again by themselves."""
        channel = self._channel
        if channel is None or last.channel is not channel or not channel.is_open:
            return
        try:
            channel.basic_ack(last.tag, multiple=True)
        except AMQPError as e:
            log.info("results come again: %s", type(e).__name__)

    async def finish(self, results: list[tuple[str, str, bytes]]) -> None:
        """Store results that the gateway itself has made, and relay them.

        Raises StoreUnavailable.
        """
        await self.send(await self._db.awrite(taskstore.finish, results))

    async def send(self, finished: list[Finished]) -> None:
        """Publish stored results to the queues of those groups that have one."""
        queued = await self._db.aread(taskstore.queued_groups, {f.group_id for f in finished})
        for result in finished:
            if result.group_id not in queued:
                self._marks.add(result.id)
            elif result.id not in self._in_flight:
                try:
                    confirm = self._publish(result)
                except BrokerDown:
                    return  # stored: the next flush sends them
                self._in_flight.add(result.id)
                worker = asyncio.ensure_future(self._await_confirm(result, confirm))
                self._work.add(worker)
                worker.add_done_callback(self._work.discard)

    def _publish(self, result: Finished) -> asyncio.Future[None]:
        properties = BasicProperties(delivery_mode=2, timestamp=result.timestamp)
        return self._link.publish(
            "", names.group_queue(result.group_id), result.body, properties
        )

    async def _await_confirm(self, result: Finished, confirm: asyncio.Future[None]) -> None:
        try:
            await confirm
        except Unroutable:
            log.info("group %s has no queue any more", result.group_id)
        except BrokerDown as e:
            self._in_flight.discard(result.id)
            log.info("result %s is not relayed yet: %s", result.id, e)
            return
        self._marks.add(result.id)

    async def _mark(self, ids: list[str]) -> None:
        await self._db.awrite(taskstore.mark_relayed, ids)
        self._metrics.relayed.inc(len(ids))
        self._in_flight.difference_update(ids)

    async def flush(self, all_of_them: bool = False) -> None:
        """Publish stored results that the broker has not confirmed and nobody else sees to."""
        await self.send(await self._db.awrite(taskstore.claim_unrelayed, all_of_them))
