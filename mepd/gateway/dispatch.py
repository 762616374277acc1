"""Stored tasks to the user endpoints' queues: at least once, marked when confirmed."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Iterable

from pika.spec import BasicProperties

from mepd.gateway import names, taskstore
from mepd.gateway.amqp import Link
from mepd.gateway.batcher import Batcher
from mepd.gateway.database import Database
from mepd.gateway.failures import BrokerDown, NoQueue, Unroutable, Unsendable
from mepd.gateway.taskstore import Outgoing
from mepd.wire import message

log = logging.getLogger(__name__)


WINDOW = 32 * 1024 * 1024
"""Bytes at the broker that it has not confirmed yet; more waits here."""
QUEUE_MAX = 64 * 1024 * 1024
"""Bytes of arguments that wait here; more waits in the store alone."""


class Dispatcher:
    """``run`` marks what the broker has confirmed; what it has not waits for ``flush``.

    ``refused`` is called with a task that no broker takes, and why.
    """

    def __init__(
        self, db: Database, link: Link, refused: Callable[[Outgoing, str], None]
    ) -> None:
        self._db = db
        self._link = link
        self._refused = refused
        self._queue: deque[Outgoing] = deque()
        self._queued = 0
        self._flying = 0
        self._in_flight: set[str] = set()
        self._work: set[asyncio.Task[None]] = set()
        self._marks: Batcher[str] = Batcher("sent tasks", self._mark)
        self.run = self._marks.run

    async def _mark(self, ids: list[str]) -> None:
        await self._db.awrite(taskstore.mark_sent, ids)
        self._in_flight.difference_update(ids)

    def send(self, tasks: Iterable[Outgoing]) -> None:
        """Publish stored tasks; in the order given, without waiting for the broker."""
        for task in tasks:
            if task.id in self._in_flight:
                continue
            if self._queue and self._queued + len(task.payload) > QUEUE_MAX:
                break  # stored: a later flush sends them
            self._in_flight.add(task.id)
            self._queue.append(task)
            self._queued += len(task.payload)
        self._pump()

    def _pump(self) -> None:
        """Publish what waits here, as far as the window is open."""
        while self._queue and self._flying < WINDOW:
            task = self._queue.popleft()
            self._queued -= len(task.payload)
            try:
                confirm = self._publish(task)
            except BrokerDown:
                self._in_flight.difference_update((task.id, *(t.id for t in self._queue)))
                self._queue.clear()  # stored: the next flush sends them
                self._queued = 0
                return
            except Unsendable as e:
                self._in_flight.discard(task.id)
                self._refused(task, str(e))
                continue
            self._flying += task.size
            worker = asyncio.ensure_future(self._await_confirm(task, confirm))
            self._work.add(worker)
            worker.add_done_callback(self._work.discard)

    def _publish(self, task: Outgoing) -> asyncio.Future[None]:
        properties = BasicProperties(
            content_type="application/octet-stream", delivery_mode=2, headers=dict(task.headers)
        )
        body = message.pack_task(message.Task(task.id, task.buffer))
        return self._link.publish("", names.task_queue(task.uep_id), body, properties)

    async def _await_confirm(self, task: Outgoing, confirm: asyncio.Future[None]) -> None:
        try:
            try:
                await confirm
            except Unroutable:
                await declare_task_queue(self._link, task.uep_id)
                await self._publish(task)
        except BrokerDown as e:
            self._in_flight.discard(task.id)
            log.info("task %s is not sent yet: %s", task.id, e)
        else:
            self._marks.add(task.id)
        finally:
            self._flying -= task.size
            self._pump()

    async def flush(self, all_of_them: bool = False) -> None:
        """Publish stored tasks that the broker has not confirmed and nobody else sees to."""
        self.send(await self._db.awrite(taskstore.claim_unsent, all_of_them))


async def declare_task_queue(link: Link, uep_id: str) -> None:
    """Raises BrokerDown."""
    await link.session.call(
        "queue_declare",
        queue=names.task_queue(uep_id),
        durable=True,
        arguments=names.late_ack_arguments(names.QUEUE_LIFETIME_MS),
    )


async def is_listening(link: Link, uep_id: str) -> bool:
    """Whether somebody consumes the user endpoint's queue at this moment.

    A host that lost power, or a mepd that was killed, sends no goodbye; the broker knows
    at once that the connection is gone. Raises BrokerDown.
    """
    try:
        answer = await link.session.call(
            "queue_declare", queue=names.task_queue(uep_id), passive=True
        )
    except NoQueue:
        return False
    return bool(answer.consumer_count)


async def declare_group_queue(link: Link, group_id: str) -> None:
    """Raises BrokerDown."""
    await link.session.call(
        "queue_declare",
        queue=names.group_queue(group_id),
        durable=True,
        arguments=names.late_ack_arguments(names.QUEUE_LIFETIME_MS),
    )


async def disconnect_endpoint(link: Link, endpoint_id: str) -> None:
    """End the endpoint's consumer, and let all gateways know. Raises BrokerDown."""
    await link.session.call("queue_delete", queue=names.command_queue(endpoint_id))
    goodbye = message.StatusReport(endpoint_id, {"heartbeat_period": 0, "active": False})
    body = message.pack_status(goodbye)
    await link.publish(names.HEARTBEATS, endpoint_id, body, BasicProperties(delivery_mode=2))


async def declare_command_queue(link: Link, endpoint_id: str) -> None:
    """Raises BrokerDown."""
    await link.session.call(
        "queue_declare",
        queue=names.command_queue(endpoint_id),
        durable=True,
        arguments=names.command_queue_arguments(),
    )
