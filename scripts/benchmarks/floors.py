"""What no manager can be faster than."""

from __future__ import annotations

import subprocess
import sys
import time

import pika
from rabbit import Rabbit

from tests.conftest import User


def run_as(user: User) -> float:
    """Seconds to fork, become ``user``, and run an interpreter that does nothing."""
    began = time.monotonic()
    subprocess.run(
        [sys.executable, "-I", "-c", "pass"],
        user=user.uid, group=user.gid, extra_groups=[], cwd="/", env={}, check=True,
    )  # fmt: skip
    return time.monotonic() - began


def pika_round_trips(rabbit: Rabbit, count: int) -> list[float]:
    """Seconds for a message to the broker and back twice, as a task and its result go."""
    found = []
    connection = rabbit.connect()
    channel = connection.channel()
    queue = channel.queue_declare("", exclusive=True).method.queue
    messages = channel.consume(queue, auto_ack=True)
    for _ in range(count):
        began = time.monotonic()
        for _there_and_back in range(2):
            channel.basic_publish("", queue, b"x" * 500, pika.BasicProperties(delivery_mode=2))
            next(messages)
        found.append(time.monotonic() - began)
    channel.cancel()
    connection.close()
    return found
