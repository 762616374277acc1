"""The gateway's link to the broker, on the event loop.

One connection that comes back by itself; messages with publisher confirms; consumers
that are set up anew at each connection.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import random
from collections.abc import Awaitable, Callable
from typing import Any

import pika
from pika import data
from pika.adapters.asyncio_connection import AsyncioConnection, _AsyncioIOServicesAdapter
from pika.adapters.utils.connection_workflow import AMQPConnectionWorkflowFailed
from pika.channel import Channel
from pika.exceptions import AMQPConnectionError, AMQPError, ChannelClosedByBroker
from pika.spec import Basic, BasicProperties

from mepd.gateway.failures import BrokerDown, NoQueue, Unroutable, Unsendable
from mepd.posix.addresses import reachable
from mepd.wire import headertables

headertables.harden(data)
log = logging.getLogger(__name__)

BACKOFF_MAX_S = 5.0
ANSWER_S = 10.0
"""For the answer to a call: a broker in alarm reads nothing of who has published."""
OPEN_S = 60.0
"""For a connection to be made. pika has bounds of its own, but where the system has no thread
or descriptor for it, it tells nobody."""
HEADER_ROOM = 64
"""Bytes of a header frame besides the properties, with some to spare."""
Deliver = Callable[[int, str, bytes], None]
"""Called with delivery tag, routing key and body."""


def _why(error: BaseException) -> str:
    """The reason of a failed connection; pika wraps it in workflow errors."""
    while isinstance(error, (AMQPConnectionError, AMQPConnectionWorkflowFailed)):
        inner = error.exceptions if isinstance(error, AMQPConnectionWorkflowFailed) else error.args
        if not inner or not isinstance(inner[-1], BaseException):
            break
        error = inner[-1]
    return f"{type(error).__name__}: {error}"[:300]


def check_header(properties: BasicProperties, frame_max: int) -> None:
    """Raises Unsendable for more than one frame: the broker would end the connection, and
    so each that comes after it with the same message."""
    size = sum(map(len, properties.encode())) + HEADER_ROOM
    if 0 < frame_max < size:
        raise Unsendable(f"the headers of a message have more than {frame_max} bytes")


class Publisher:
    """A channel in confirm mode: each message is a future that the broker completes."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._next = 1
        self._waiting: dict[int, asyncio.Future[None]] = {}
        self._returned: set[int] = set()
        channel.add_on_return_callback(self._on_return)
        channel.confirm_delivery(self._on_confirm)

    def publish(
        self, exchange: str, key: str, body: bytes, properties: BasicProperties
    ) -> asyncio.Future[None]:
        """The future ends with the confirm, or with BrokerDown or Unroutable.

        Raises Unsendable.
        """
        waiting: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        tag = self._next
        properties.message_id = str(tag)
        check_header(properties, self._channel.connection.params.frame_max)
        try:
            self._channel.basic_publish(exchange, key, body, properties, mandatory=True)
        except AMQPError as e:
            waiting.set_exception(BrokerDown(f"the broker took no message: {type(e).__name__}"))
            return waiting
        self._next += 1
        self._waiting[tag] = waiting
        return waiting

    def _on_return(
        self, _channel: Channel, _method: Basic.Return, properties: BasicProperties, _body: bytes
    ) -> None:
        if properties.message_id is not None and properties.message_id.isdecimal():
            self._returned.add(int(properties.message_id))

    def _on_confirm(self, frame: Any) -> None:
        method = frame.method
        tags = [method.delivery_tag]
        if method.multiple:
            last = method.delivery_tag
            tags = list(itertools.takewhile(lambda tag: tag <= last, self._waiting))  # in order
        for tag in tags:
            waiting = self._waiting.pop(tag, None)
            returned = tag in self._returned
            self._returned.discard(tag)
            if waiting is None or waiting.done():
                continue
            if isinstance(method, Basic.Nack):
                waiting.set_exception(BrokerDown("the broker refused a message"))
            elif returned:
                waiting.set_exception(Unroutable("the broker has no queue for a message"))
            else:
                waiting.set_result(None)

    def fail(self) -> None:
        """The channel has gone: what waits has an unknown fate."""
        for waiting in self._waiting.values():
            if not waiting.done():
                waiting.set_exception(BrokerDown("the connection to the broker was lost"))
        self._waiting.clear()


class Consumer:
    """One consumer of a queue, which can be paused: what is on its way then goes back to
    the queue."""

    def __init__(self, channel: Channel, queue: str, deliver: Deliver, acknowledged: bool) -> None:
        self.channel = channel
        self._queue = queue
        self._deliver = deliver
        self._acknowledged = acknowledged
        self._tag: str | None = None
        self.resume()

    @property
    def paused(self) -> bool:
        return self._tag is None

    def pause(self) -> None:
        if self._tag is not None:
            tag, self._tag = self._tag, None
            with contextlib.suppress(AMQPError):
                self.channel.basic_cancel(tag)  # pika rejects what comes for it from now on

    def resume(self) -> None:
        """Raises AMQPError."""
        if self._tag is None:
            self._tag = self.channel.basic_consume(
                self._queue, self._on_message, auto_ack=self._acknowledged
            )

    def _on_message(
        self, _channel: Channel, method: Basic.Deliver, _properties: BasicProperties, body: bytes
    ) -> None:
        self._deliver(method.delivery_tag or 0, method.routing_key or "", body)


class _Services(_AsyncioIOServicesAdapter):  # type: ignore[misc]
    def getaddrinfo(
        self, host: Any, port: Any, on_done: Callable[[Any], None], *args: Any, **kwargs: Any
    ) -> Any:
        """Where there is no descriptor for a socket, the name cannot be found."""
        return super().getaddrinfo(
            host, port, lambda found: on_done(reachable(found)), *args, **kwargs
        )


class Session:
    """One connection from its opening to its close."""

    def __init__(self, parameters: pika.ConnectionParameters) -> None:
        loop = asyncio.get_running_loop()
        self._opened: asyncio.Future[None] = loop.create_future()
        self.closed: asyncio.Future[str] = loop.create_future()
        self._connection = AsyncioConnection(
            parameters,
            on_open_callback=self._on_open,
            on_open_error_callback=self._on_open_error,
            on_close_callback=self._on_close,
            custom_ioloop=_Services(loop),
        )
        self.publisher: Publisher | None = None

    def _on_open(self, _connection: Any) -> None:
        if not self._opened.done():
            self._opened.set_result(None)
        else:
            self.close("it took too long")

    def _on_open_error(self, _connection: Any, error: BaseException) -> None:
        if not self._opened.done():
            self._opened.set_exception(BrokerDown(_why(error)))

    def _on_close(self, _connection: Any, error: BaseException) -> None:
        if not self._opened.done():
            self._opened.set_exception(BrokerDown(_why(error)))
        if not self.closed.done():
            self.closed.set_result(str(error)[:300])
        if self.publisher is not None:
            self.publisher.fail()

    async def open(self) -> None:
        """Raises BrokerDown."""
        try:
            async with asyncio.timeout(OPEN_S):
                await self._opened
        except TimeoutError:
            raise BrokerDown(f"no connection in {OPEN_S:.0f} s") from None
        self.publisher = Publisher(await self.channel())

    async def channel(self, vital: bool = True) -> Channel:
        """A new channel; when a vital one closes, the connection is given up."""
        opened: asyncio.Future[Channel] = asyncio.get_running_loop().create_future()

        def on_open(channel: Channel) -> None:
            if not opened.done():
                opened.set_result(channel)
            else:
                channel.close()

        try:
            channel = self._connection.channel(on_open_callback=on_open)
        except AMQPError as e:
            raise BrokerDown(type(e).__name__) from None
        if vital:
            channel.add_on_close_callback(lambda _channel, reason: self.close(str(reason)))
        try:
            return await self._or_closed(opened)
        except asyncio.CancelledError:
            opened.cancel()
            raise

    async def _or_closed(self, future: asyncio.Future[Any]) -> Any:
        """Wait for a broker's answer, which never comes once the connection has closed."""
        await asyncio.wait((future, self.closed), return_when=asyncio.FIRST_COMPLETED)
        if not future.done():
            future.cancel()
            raise BrokerDown("the connection to the broker was lost")
        return future.result()

    async def call(self, method: str, **arguments: Any) -> Any:
        """One declaration or the like on a channel of its own, since an error closes it.

        Returns the broker's answer (pika.spec). Raises BrokerDown with its reason, NoQueue.
        """
        try:
            async with asyncio.timeout(ANSWER_S):
                return await self._call(method, arguments)
        except TimeoutError:
            raise BrokerDown(f"{method}: no answer in {ANSWER_S:.0f} s") from None

    async def _call(self, method: str, arguments: dict[str, Any]) -> Any:
        channel = await self.channel(vital=False)
        done: asyncio.Future[Any] = asyncio.get_running_loop().create_future()

        def failed(_channel: Channel, reason: BaseException) -> None:
            missing = isinstance(reason, ChannelClosedByBroker) and reason.reply_code == 404
            if not done.done():
                kind = NoQueue if missing else BrokerDown
                done.set_exception(kind(f"{method}: {reason}"[:300]))

        def succeeded(frame: Any) -> None:
            if not done.done():
                done.set_result(frame.method)

        channel.add_on_close_callback(failed)
        try:
            getattr(channel, method)(callback=succeeded, **arguments)
        except AMQPError as e:  # closed since it was opened
            raise BrokerDown(f"{method}: {type(e).__name__}") from None
        try:
            return await self._or_closed(done)
        finally:
            with contextlib.suppress(AMQPError):
                channel.close()

    async def consume(
        self, queue: str, prefetch: int, deliver: Deliver, acknowledged: bool = False
    ) -> Consumer:
        """The deliveries are to be acknowledged on the consumer's channel, unless they are
        as good as that when they are sent."""
        channel = await self.channel()
        channel.basic_qos(prefetch_count=prefetch)
        channel.add_on_cancel_callback(lambda _frame: self.close("consumer cancelled"))
        return Consumer(channel, queue, deliver, acknowledged)

    def close(self, reason: str = "closing") -> None:
        with contextlib.suppress(AMQPError):
            if self._connection.is_open:
                log.debug("closing the connection to the broker: %s", reason)
                self._connection.close()


class Link:
    """Keeps a session up. ``on_up`` sets it up; ``on_down`` is called at its end."""

    def __init__(
        self,
        parameters: pika.ConnectionParameters,
        on_up: Callable[[Session], Awaitable[None]],
        on_down: Callable[[], None],
    ) -> None:
        self._parameters = parameters
        self._on_up = on_up
        self._on_down = on_down
        self._session: Session | None = None

    @property
    def connected(self) -> bool:
        return self._session is not None

    @property
    def session(self) -> Session:
        """Raises BrokerDown when there is none."""
        if self._session is None:
            raise BrokerDown("the broker is not connected")
        return self._session

    def publish(
        self, exchange: str, key: str, body: bytes, properties: BasicProperties
    ) -> asyncio.Future[None]:
        """See Publisher.publish. Raises BrokerDown when there is no session, Unsendable."""
        publisher = self.session.publisher
        if publisher is None:
            raise BrokerDown("the broker is not connected")
        return publisher.publish(exchange, key, body, properties)

    async def run(self) -> None:
        """Connect, and connect again, until cancelled."""
        delay = 0.0
        while True:
            try:
                await self._one_session()
                delay = 0.0
            except (BrokerDown, AMQPError) as e:
                log.warning("broker: %s", e or type(e).__name__)
            delay = min(BACKOFF_MAX_S, delay * 2 or 0.25)
            await asyncio.sleep(delay * random.uniform(0.5, 1.0))

    async def _one_session(self) -> None:
        session = Session(self._parameters)
        try:
            await session.open()
            self._session = session
            await self._on_up(session)
            log.info("connected to the broker")
            reason = await asyncio.shield(session.closed)
            log.warning("connection to the broker closed: %s", reason)
        finally:
            if self._session is session:
                self._session = None
                self._on_down()
            session.close()
