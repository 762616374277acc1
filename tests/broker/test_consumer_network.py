"""The AMQP worker on a network that breaks: at any byte, slowly, or without a sign."""

from __future__ import annotations

import random
import subprocess
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from consumer_fixtures import FakeMaster, FakeService, control, until
from rabbit import Rabbit
from tcpproxy import Proxy

from mepd.wire.worker import (
    DropEndpoint,
    EndpointOnline,
    NoticeDone,
    SendNotice,
    Settle,
    StartRequested,
)
from tests.figures import FULL, figure

HANDSHAKE = 1200
"""Bytes, both ways, until a start request can come; a little more than there are."""


def through(rabbit: Rabbit, wire: Proxy) -> str:
    return rabbit.url().replace(f":{rabbit.port}/", f":{wire.port}/")


def serves(master: FakeMaster, service: FakeService) -> None:
    """A good request is handed over, as often as it must, until its ack has arrived."""
    uep_id = str(uuid.uuid4())
    service.publish(service.request(uep_id))
    until(lambda: [m for m in master.all(StartRequested) if uep_id in m.request["name"]], 90)
    settled: set[str] = set()

    def acked() -> bool:
        for token in {m.token for m in master.all(StartRequested)} - settled:
            settled.add(token)
            master.send(Settle(token))
        return service.kept() == 0

    until(acked, 90)


@pytest.mark.figures
def test_A3_connections_cut_after_any_number_of_bytes(
    rabbit: Rabbit, master: FakeMaster, service: FakeService
) -> None:
    """That of the start requests and that of the heartbeats: in the handshake and later."""
    wire = Proxy(rabbit.port)
    service.url = through(rabbit, wire)
    chance = random.Random(time.time_ns())
    lives = range(1, HANDSHAKE, 3) if FULL else sorted(chance.sample(range(1, HANDSHAKE), 10))
    try:
        for life in lives:
            wire.lives = [life, 10**9, life]
            master.send(service.serve())
            serves(master, service)
            service.next_report(lambda r: True)
            master.send(DropEndpoint("debug"))
            until(lambda: not control(rabbit, "list_consumers", "--no-table-headers"))
        assert master.process.poll() is None
        assert "Traceback" not in master.log.read_text()
    finally:
        wire.end()
