"""Bare pika where a user endpoint would be: each task has an answer, confirmed, then acked.

    echo.py URL TASK_QUEUE EXCHANGE ROUTING_KEY
"""

from __future__ import annotations

import sys
from typing import Any

import pika

from mepd.wire.message import Result, pack_result, unpack_task

PREFETCH = 1000


class Echo:
    """One connection and one channel, on which the Nth delivery's answer is the Nth message:
    a confirm of the broker is the tag to ack."""

    def __init__(self, url: str, queue: str, exchange: str, key: str) -> None:
        self._queue, self._exchange, self._key = queue, exchange, key
        self._properties = pika.BasicProperties(delivery_mode=2)
        self.connection = pika.SelectConnection(
            pika.URLParameters(url), on_open_callback=self._on_open
        )

    def _on_open(self, connection: Any) -> None:
        connection.channel(on_open_callback=self._on_channel)

    def _on_channel(self, channel: Any) -> None:
        self._channel = channel
        channel.confirm_delivery(self._on_confirm)
        channel.basic_qos(prefetch_count=PREFETCH)
        channel.basic_consume(self._queue, self._on_task)

    def _on_task(self, channel: Any, _method: Any, _properties: Any, body: bytes) -> None:
        result = pack_result(Result(unpack_task(body).task_id, "7"))
        channel.basic_publish(self._exchange, self._key, result, self._properties)

    def _on_confirm(self, frame: Any) -> None:
        self._channel.basic_ack(frame.method.delivery_tag, frame.method.multiple)


if __name__ == "__main__":
    Echo(*sys.argv[1:]).connection.ioloop.start()
