"""The AMQP worker on a network that breaks: at any byte, slowly, or without a sign."""

from __future__ import annotations

import random
import signal
import time
import uuid
from pathlib import Path

import pytest
from consumer_fixtures import FakeMaster, FakeService, control, until
from rabbit import Rabbit
from tcpproxy import Proxy

from mepd.consumer.broker import CONNECT_TIMEOUT_S
from mepd.wire.message import StatusReport
from mepd.wire.worker import (
    DropEndpoint,
    EndpointOnline,
    Settle,
    StartRequested,
    Stop,
)
from tests.figures import FULL, figure

OPENED, HANDSHAKE = 900, 1200
"""Bytes, both ways: some before the connection is open, and some more than there are until
a start request can come."""


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


@pytest.mark.figures
def test_A3_connections_that_stand_still(
    rabbit: Rabbit, master: FakeMaster, request: pytest.FixtureRequest
) -> None:
    """Open, and mute from a byte of the handshake on: given up in time. Later than that it
    is AMQP's heartbeats that tell, in a minute."""
    chance = random.Random(time.time_ns())
    held = range(1, HANDSHAKE, 60) if FULL else chance.sample(range(1, OPENED), 4)
    started = time.monotonic()
    for life in held:
        wire = Proxy(rabbit.port, lives=[life], holds=True)
        request.addfinalizer(wire.end)
        service = FakeService(rabbit)
        request.addfinalizer(service.close)
        service.url = through(rabbit, wire)
        master.send(service.serve(name=str(life)))
    for life in held:
        until(lambda life=life: str(life) in online(master), figure(25, 100))  # type: ignore
    assert time.monotonic() - started > CONNECT_TIMEOUT_S


def online(master: FakeMaster) -> set[str]:
    return {m.name for m in master.all(EndpointOnline) if m.online}


def test_a_slow_network_costs_time_only(
    rabbit: Rabbit, master: FakeMaster, service: FakeService
) -> None:
    """5 KB/s, and 50 ms for each piece: start requests, acks, heartbeats and notices."""
    wire = Proxy(rabbit.port, piece=256, delay=0.05)
    service.url = through(rabbit, wire)
    try:
        master.send(service.serve(heartbeat_period=2.0))
        master.next(EndpointOnline, online=True)
        bad = {**service.request(), "command": None}
        service.publish(*[service.request() for _ in range(10)], bad)
        until(lambda: len(master.all(StartRequested)) == 10)
        for told in master.all(StartRequested):
            master.send(Settle(told.token))
        seen: list[StatusReport] = []

        def heard() -> bool:
            seen.extend(service.reports())
            return len(seen) > 4 and any("error" in r.global_state for r in seen)

        until(heard)
        until(lambda: service.kept() == 0)
        assert len(master.all(StartRequested)) == 10 and not master.all(EndpointOnline)[1:]
    finally:
        wire.end()


@pytest.mark.figures
@pytest.mark.parametrize("how", ["stop", "cut", *(["mute", "frozen"] if FULL else [])])
def test_A9_the_other_takes_over_however_the_first_leaves(
    rabbit: Rabbit, master: FakeMaster, service: FakeService, tmp_path: Path, how: str
) -> None:
    """In order, with its network, or without a sign; what it says afterwards changes nothing."""
    wire = Proxy(rabbit.port)
    url, service.url = service.url, through(rabbit, wire)
    standby = FakeMaster(tmp_path / "standby")
    try:
        master.send(service.serve())
        master.next(EndpointOnline, online=True)
        service.url = url
        standby.send(service.serve())
        standby.next(EndpointOnline, online=True)
        service.publish(*[service.request() for _ in range(5)])
        until(lambda: len(master.all(StartRequested)) == 5)
        first = master.all(StartRequested)
        master.send(Settle(first[0].token))
        until(lambda: service.kept() == 4)
        leave(how, master, wire)
        until(lambda: len(standby.all(StartRequested)) == 4, 120)
        assert [m.request for m in standby.all(StartRequested)] == [m.request for m in first[1:]]
        if how == "frozen":
            master.process.send_signal(signal.SIGCONT)
        if how != "stop":
            for told in first[1:]:
                master.send(Settle(told.token))
            until(lambda: len(master.all(EndpointOnline)) >= 2, 60)
        assert service.kept() == 4
        for told in standby.all(StartRequested):
            standby.send(Settle(told.token))
        until(lambda: service.kept() == 0)
    finally:
        standby.close()
        wire.end()


def leave(how: str, master: FakeMaster, wire: Proxy) -> None:
    if how == "stop":
        master.send(Stop())
        assert master.process.wait(10) == 0
    elif how == "cut":
        wire.end()
    elif how == "mute":
        wire.silence()
    else:
        master.process.send_signal(signal.SIGSTOP)
