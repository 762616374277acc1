"""Consuming the task queue: one that has been told to stop takes nothing on a later channel."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

from mepd.uep.amqp import Channel
from mepd.uep.taskfeed import TaskFeed


class FakeChannel:
    is_open = True

    def __init__(self) -> None:
        self.consumer: Any = None
        self.cancelled: list[str] = []

    def add_on_cancel_callback(self, _callback: object) -> None: ...

    def basic_qos(self, prefetch_count: int) -> None: ...

    def basic_consume(self, _queue: str, message: Any, **_options: object) -> str:
        self.consumer = message
        return "consumer"

    def basic_cancel(self, consumer: str) -> None:
        self.cancelled.append(consumer)

    def deliver(self) -> None:
        self.consumer(self, SimpleNamespace(delivery_tag=1), SimpleNamespace(headers={}), b"")


def test_no_task_is_taken_after_the_stop_on_this_channel_or_another() -> None:
    taken: list[object] = []
    up: list[int] = []
    feed = TaskFeed(lambda: {"queue": "q"}, 4, lambda *task: taken.append(task), lambda: None)
    first, second = FakeChannel(), FakeChannel()
    feed.opened(cast(Channel, first), lambda: up.append(1))
    first.deliver()
    assert len(taken) == 1
    feed.stop()
    assert first.cancelled == ["consumer"]
    first.deliver()
    feed.closed(None)
    feed.opened(cast(Channel, second), lambda: up.append(2))
    assert second.consumer is None and up == [2]
    assert len(taken) == 1
