"""The relay and the broker's channels when store or broker go at a bad moment."""

from __future__ import annotations

import asyncio
import contextlib
from types import SimpleNamespace
from typing import Any

import pytest
from pika.exceptions import ChannelWrongStateError

from mepd.gateway import amqp, taskstore
from mepd.gateway.failures import BrokerDown, StoreUnavailable
from mepd.gateway.metrics import Metrics
from mepd.gateway.relay import Relay
from mepd.gateway.taskstore import Finished
from mepd.wire import message

TASK = "0b8b5d1e-5f6c-4f0e-9d3c-2f6f6f1f2f3a"


class Store:
    """Gone after the results are stored, once."""

    def __init__(self) -> None:
        self.reads = 0

    async def awrite(self, function: Any, *args: Any) -> list[Finished]:
        fresh = function is taskstore.finish and not self.reads
        return [Finished(TASK, "g", args[0][0][2], 0)] if fresh else []

    async def aread(self, _function: Any, *_: Any) -> set[str]:
        self.reads += 1
        if self.reads == 1:
            raise StoreUnavailable("gone")
        return set()


class Channel:
    is_open = True

    def __init__(self) -> None:
        self.acked: list[int] = []

    def basic_ack(self, tag: int, multiple: bool) -> None:
        self.acked.append(tag)


def test_G7_results_are_acknowledged_once_though_the_store_goes() -> None:
    """A second time, the broker closes the connection; and they count once for what is held."""
    channel = Channel()

    async def consume(*_: Any) -> Any:
        return SimpleNamespace(channel=channel, paused=False, pause=lambda: None)

    async def run() -> Relay:
        any_: Any = SimpleNamespace(consume=consume)
        store: Any = Store()
        relay = Relay(store, any_, Metrics())
        await relay.consume(any_)
        job = asyncio.create_task(relay.run())
        relay._deliver(1, "u", message.pack_result(message.Result(TASK, "x" * 1000)))
        await asyncio.sleep(1.5)
        job.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await job
        return relay

    relay = asyncio.run(run())
    assert channel.acked == [1] and relay._held == 0


def test_a_connection_that_closes_as_a_channel_opens_is_a_broker_that_is_down() -> None:
    class Closed:
        def add_on_close_callback(self, _callback: Any) -> None:
            pass

        def queue_declare(self, **_: Any) -> None:
            raise ChannelWrongStateError("Channel is closed.")

    class Connection:
        def channel(self, on_open_callback: Any) -> Closed:
            channel = Closed()
            on_open_callback(channel)
            return channel

    async def run() -> None:
        session = amqp.Session.__new__(amqp.Session)
        session.closed = asyncio.get_running_loop().create_future()
        session._connection = Connection()
        with pytest.raises(BrokerDown):
            await session.call("queue_declare", queue="q")

    asyncio.run(run())
