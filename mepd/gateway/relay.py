"""Results in, from the user endpoints; results out, to the task groups' queues.

In: stored and committed, then acknowledged. Out: published, confirmed, then marked.
A result that a crash finds between two of these steps takes the rest of them again.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
from dataclasses import dataclass

from pika.channel import Channel
from pika.exceptions import AMQPError
from pika.spec import BasicProperties

from mepd.errors import WireError
from mepd.gateway import names, taskstore
from mepd.gateway.amqp import Consumer, Link, Session
from mepd.gateway.batcher import Batcher
from mepd.gateway.database import Database
from mepd.gateway.failures import BrokerDown, StoreUnavailable, Unroutable
from mepd.gateway.metrics import Metrics
from mepd.gateway.sparinglog import SparingLog
from mepd.gateway.strict import check_text, check_tokens, storable
from mepd.gateway.taskstore import Finished
from mepd.wire import jsonlimits, message

log = logging.getLogger(__name__)

PREFETCH = 256
HELD_MAX = 64 * 1024 * 1024
"""Bytes of results on their way in and out; with more, no new ones are taken."""
RESULT_MAX = 16 * 1024 * 1024
"""Bytes of a result's message; user endpoints keep to 10 MiB."""
_UUID = re.compile(r"[0-9a-f]{8}-([0-9a-f]{4}-){3}[0-9a-f]{12}")
_NAMED = re.compile(rb'"task_id"\s*:\s*"([0-9a-f-]{36})"')
_NAMED_WITHIN = 1024


def error_result(task_id: str, code: str, text: str) -> bytes:
    """A result that the gateway makes itself."""
    return message.pack_result(
        message.Result(task_id, data=text, error_code=code, error_message=text)
    )


def check_result(result: message.Result) -> None:
    """Raise WireError for what no database holds, or no answer to a client."""
    for name in ("data", "error_code", "error_message", "details"):
        value = getattr(result, name)
        jsonlimits.check(value, name)
        check_text(value, name)


def read_result(body: bytes) -> tuple[str, bytes]:
    """Task id and body of a message that says to be a result. One that cannot be kept but
    tells its task is an error of that task, which else would wait for ever.

    Raises WireError for anything else.
    """
    try:
        if len(body) > RESULT_MAX:
            raise WireError(f"it has {len(body)} bytes, at most {RESULT_MAX} are taken")
        check_tokens(body)
    except WireError as e:
        named = _NAMED.search(body, 0, _NAMED_WITHIN)
        if named is None:
            raise
        task_id, why = named[1].decode("ascii"), str(e)
    else:
        result = message.unpack_result(body)
        task_id = result.task_id
        if not _UUID.fullmatch(task_id):
            raise WireError("task_id is no UUID")
        try:
            check_result(result)
            return task_id, body
        except WireError as e:
            why = str(e)
    text = f"The user endpoint has sent a result that cannot be taken: {why}"
    return task_id, error_result(task_id, "RESULT_UNREADABLE", storable(text))


@dataclass(frozen=True)
class _Delivery:
    channel: Channel | None  # None: of this gateway's own making
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
        self._sparing = SparingLog(log)
        self._consumer: Consumer | None = None
        self._held = 0
        self._in_flight: set[str] = set()
        self._work: set[asyncio.Task[None]] = set()
        self._incoming: Batcher[_Delivery] = Batcher("results", self._store, PREFETCH)
        self._marks: Batcher[str] = Batcher("relayed results", self._mark)

    async def run(self) -> None:
        await asyncio.gather(self._incoming.run(), self._marks.run())

    async def consume(self, session: Session) -> None:
        """Raises BrokerDown."""
        self._consumer = None
        self._consumer = await session.consume(names.RESULTS, PREFETCH, self._deliver)
        self._hold(0)

    def _hold(self, size: int) -> None:
        self._held += size
        if self._consumer is not None and self._held > HELD_MAX:
            self._consumer.pause()

    def _release(self, size: int) -> None:
        self._held -= size
        consumer = self._consumer
        if consumer is not None and consumer.paused and self._held < HELD_MAX // 4:
            with contextlib.suppress(AMQPError):  # the next connection has its own
                consumer.resume()

    def _deliver(self, tag: int, uep_id: str, body: bytes) -> None:
        task_id: str | None = None
        try:
            task_id, body = read_result(body)
        except WireError as e:
            body = b""
            self._sparing.write(
                logging.WARNING, uep_id, "dropping a message of user endpoint %s: %s", uep_id, e
            )
        if self._consumer is not None:
            self._hold(len(body))
            self._incoming.add(_Delivery(self._consumer.channel, tag, uep_id, task_id, body))

    def refuse(self, task_id: str, uep_id: str, why: str) -> None:
        """The task cannot be sent: it fails."""
        text = f"The task cannot be sent to its user endpoint: {why}"
        body = error_result(task_id, "TASK_UNSENDABLE", text)
        self._hold(len(body))
        self._incoming.add(_Delivery(None, 0, uep_id, task_id, body))

    async def _store(self, batch: list[_Delivery]) -> None:
        results = [(d.task_id, d.uep_id, d.body) for d in batch if d.task_id is not None]
        try:
            fresh = await self._db.awrite(taskstore.finish, results)
        except StoreUnavailable:
            raise
        except Exception:
            if len(batch) == 1:
                self._settle(batch)  # it would come again and fail again
            raise
        self._settle(batch)
        self._metrics.results.inc(len(fresh))
        if len(fresh) < len(results):
            unwanted = len(results) - len(fresh)
            self._sparing.write(
                logging.INFO, "results", "%d results were not awaited", unwanted
            )
        try:
            await self.send(fresh)
        except StoreUnavailable as e:  # stored and acknowledged: the next flush sends them
            log.info("results are not relayed yet: %s", e)

    def _settle(self, batch: list[_Delivery]) -> None:
        """Acknowledge all deliveries up to the last of these; those of a lost channel come
        again by themselves."""
        self._release(sum(len(d.body) for d in batch))
        channel = self._consumer.channel if self._consumer is not None else None
        tags = [d.tag for d in batch if d.channel is channel]
        if channel is None or not tags or not channel.is_open:
            return
        try:
            channel.basic_ack(tags[-1], multiple=True)
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
                self._hold(len(result.body))
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
        finally:
            self._release(len(result.body))
        self._marks.add(result.id)

    async def _mark(self, ids: list[str]) -> None:
        await self._db.awrite(taskstore.mark_relayed, ids)
        self._metrics.relayed.inc(len(ids))
        self._in_flight.difference_update(ids)

    async def flush(self, all_of_them: bool = False) -> None:
        """Publish stored results that the broker has not confirmed and nobody else sees to."""
        await self.send(await self._db.awrite(taskstore.claim_unrelayed, all_of_them))
