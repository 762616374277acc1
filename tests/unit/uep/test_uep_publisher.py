"""What is published, confirmed, overdue and lost, with a channel that only counts."""

from __future__ import annotations

import types
from typing import Any

import pytest

from mepd.uep import publisher as module
from mepd.uep.publisher import Publisher

INFO = {"connection_url": "amqp://h/", "queue_publish_kwargs": {"routing_key": "k"}}


class FakeChannel:
    is_open = True

    def __init__(self) -> None:
        self.published: list[str] = []

    def add_on_return_callback(self, _callback: Any) -> None: ...

    def confirm_delivery(self, on_confirm: Any, callback: Any) -> None:
        self.on_confirm = on_confirm
        callback(None)

    def basic_publish(self, *args: Any, **_: Any) -> None:
        self.published.append(args[3].message_id)

    def confirm(self, tag: int, multiple: bool = False) -> None:
        method = types.SimpleNamespace(NAME="Basic.Ack", delivery_tag=tag, multiple=multiple)
        self.on_confirm(types.SimpleNamespace(method=method))


class Bench:
    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 0.0
        monkeypatch.setattr(module.time, "monotonic", lambda: self.now)
        self.done: list[str] = []
        self.failed: list[str] = []
        self.channel = FakeChannel()
        self.publisher = Publisher(
            "results", lambda: INFO, self.done.extend,
            lambda key, _body: self.failed.append(key), lambda: None,
        )  # fmt: skip
        self.publisher.opened(self.channel, lambda: None)  # type: ignore[arg-type]


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Bench:
    return Bench(monkeypatch)


def test_only_what_has_waited_is_overdue(bench: Bench) -> None:
    for key in "abc":
        assert bench.publisher.publish(key, key.encode())
        bench.now += 0.6
    assert bench.publisher.overdue(1.0) == [("a", b"a"), ("b", b"b")]
    bench.channel.confirm(1)
    assert bench.done == ["a"] and bench.publisher.overdue(1.0) == [("b", b"b")]
    bench.channel.confirm(3, multiple=True)
    assert bench.done == ["a", "b", "c"] and bench.publisher.overdue(0.0) == []


def test_what_is_lost_with_the_channel_is_overdue_no_more(bench: Bench) -> None:
    bench.publisher.publish("a", b"a")
    bench.now = 5.0
    bench.publisher.closed(OSError())
    assert bench.failed == ["a"] and bench.publisher.overdue(1.0) == []
    assert not bench.publisher.publish("b", b"b")
