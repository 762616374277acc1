"""Connections to the broker where the system is short of what they take."""

from __future__ import annotations

import contextlib
import os
import resource
import socket
from collections.abc import Iterator

from pika.adapters.select_connection import IOLoop

from mepd.consumer.broker import BrokerAddress
from mepd.consumer.session import Session


@contextlib.contextmanager
def no_descriptor_left() -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    lowest = os.dup(0)
    os.close(lowest)
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_R6_no_descriptor_is_an_end_that_is_told() -> None:
    socket.getaddrinfo("127.0.0.1", 1)  # the first one reads files, and fails without descriptors
    loop = IOLoop()
    ends: list[str] = []

    def ended(reason: str) -> None:
        ends.append(reason)
        loop.stop()

    def begin() -> None:
        address = BrokerAddress(False, "127.0.0.1", 1, "/", "guest", "guest")
        Session(loop, address, lambda _channel: None, ended)
        short.enter_context(no_descriptor_left())

    loop.call_later(0, begin)  # it makes its own when it starts
    loop.call_later(10, loop.stop)
    with contextlib.ExitStack() as short:
        loop.start()
    assert ends == ["Too many open files"]
