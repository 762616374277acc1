"""The AMQP worker against broken messages, a broken broker and hostile credentials."""

from __future__ import annotations

import json
import random
import socket
import time
import uuid
from pathlib import Path
from typing import Any

import psutil
import pytest
from consumer_fixtures import FakeMaster, FakeService, control, until
from oddheaders import ODD_HEADERS, OddProperties
from rabbit import Rabbit

from mepd.wire.worker import (
    EndpointOnline,
    NoticeDone,
    Ping,
    Pong,
    RequestRefused,
    SendNotice,
    Settle,
    StartRequested,
    Stop,
)
from tests.figures import figure


def still_serves(master: FakeMaster, service: FakeService) -> None:
    """A good request is handed over, and settling it empties the queue."""
    uep_id = str(uuid.uuid4())
    service.publish(service.request(uep_id))
    found = until(
        lambda: [m for m in master.all(StartRequested) if uep_id in m.request["name"]]
    )
    master.send(Settle(found[-1].token))
    master.send(Stop())
    assert master.process.wait(10) == 0
    assert service.ready_messages() == 0


def test_A1_what_is_settled_at_the_end_is_acked(master: FakeMaster, service: FakeService) -> None:
    """Also while the heartbeats' broker cannot be reached, which would give it time."""
    service.heartbeat_url = "amqp://guest:guest@127.0.0.1:9/"
    master.send(service.serve())
    master.next(EndpointOnline, online=True)
    still_serves(master, service)


def settle_all(master: FakeMaster, service: FakeService) -> None:
    """Settle each delivery, also those made again, until the broker keeps none."""
    settled: set[str] = set()

    def kept_none() -> bool:
        for token in {m.token for m in master.all(StartRequested)} - settled:
            settled.add(token)
            master.send(Settle(token))
        return service.kept() == 0

    until(kept_none, timeout=60)


NOW = object()
MALFORMED: dict[str, tuple[Any, dict[str, Any]]] = {
    "no JSON": (b"start, please", {}),
    "empty": (b"", {}),
    "10 MB": (b'{"command": "' + b"x" * 10_000_000 + b'"}', {}),
    "binary": (bytes(range(256)) * 64, {}),
    "depth 200,000": (b"[" * 200_000, {}),
    "a list": (b"[]", {}),
    "command null": ({"command": None}, {}),
    "kwargs null, old": ({"kwargs": None}, {"timestamp": 1}),
    "kwargs a list": ({"kwargs": []}, {}),
    "no identity": ({"globus_identity_set": []}, {}),
    "no content type": ({}, {"content_type": None}),
    "pickle": ({}, {"content_type": "application/python-pickle"}),
    "no timestamp": ({}, {"timestamp": None}),
    "timestamp 0": ({}, {"timestamp": 0}),
    "timestamp -1": ({}, {"timestamp": 2**64 - 1}),  # as AMQP's unsigned 64 bits carry it
    "timestamp 2^63": ({}, {"timestamp": 2**63}),
    "timestamp in ms": ({}, {"timestamp": NOW}),
    "headers": ({"command": None}, {"headers": {"a": {"b": [1, None, -(2**40), b"\xff"]}}}),
}


ODD: tuple[Any, ...] = (None, True, -1, 2**70, 1.5, "", "a\nb\x1b", [], {}, [[[]]], {"": None})
PROPERTIES: tuple[dict[str, Any], ...] = (
    {}, {}, {}, {"content_type": None}, {"content_type": "text/plain"}, {"timestamp": 1},
    {"timestamp": None}, {"timestamp": 2**62}, {"headers": {"x": [None, {"y": -1}]}},
)  # fmt: skip


def spoil(chance: random.Random, value: Any) -> Any:
    """``value`` with one thing in it, at any depth, gone or put in the place of another."""
    if isinstance(value, (dict, list)) and value and chance.random() < 0.85:
        made = value.copy()
        key = chance.choice(list(made) if isinstance(made, dict) else range(len(made)))
        if chance.random() < 0.2:
            del made[key]
        else:
            made[key] = spoil(chance, made[key])
        return made
    return chance.choice(ODD)


def hostile(chance: random.Random, good: dict[str, Any]) -> Any:
    """The body of a message: a request that is spoiled, cut, or no request at all."""
    how = chance.random()
    if how < 0.1:
        return chance.randbytes(chance.randrange(2000))
    data = json.dumps(spoil(chance, good)).encode()
    return data[: chance.randrange(len(data))] if how < 0.2 else data


@pytest.mark.figures
def test_A4_any_message_is_taken_from_the_queue(online: FakeMaster, service: FakeService) -> None:
    """Refused and acked, or handed over; and the next one is served."""
    chance = random.Random(4)
    for _ in range(figure(2, 100)):
        bodies = [hostile(chance, service.request(str(uuid.uuid4()))) for _ in range(50)]
        service.publish(*bodies, **chance.choice(PROPERTIES))
        settle_all(online, service)
    assert not online.all(EndpointOnline)[1:], "it was never offline"
    still_serves(online, service)


@pytest.mark.parametrize("case", MALFORMED)
def test_A4_malformed_messages(online: FakeMaster, service: FakeService, case: str) -> None:
    """Each: one line in the log, a notice where credentials allow, acked; nothing dies."""
    change, properties = MALFORMED[case]
    if properties.get("timestamp") is NOW:
        properties = {"timestamp": int(time.time() * 1000)}
    body = change if isinstance(change, bytes) else {**service.request(), **change}
    service.publish(body, **properties)
    refused = online.next(RequestRefused)
    assert refused.endpoint == "debug"
    if isinstance(body, dict) and body["kwargs"] and properties.get("content_type", "") == "":
        report = service.next_report(lambda r: "error" in r.global_state)
        assert report.endpoint_id == body["kwargs"]["amqp_creds"]["endpoint_id"]
        assert report.global_state["error"] == refused.reason
    assert not online.all(StartRequested)
    lines = [line for line in online.log.read_text().splitlines() if "refused" in line]
    assert len(lines) == 1
    assert service.rabbit.password not in lines[0]
    still_serves(online, service)


def test_A4_all_at_once_then_a_good_one(online: FakeMaster, service: FakeService) -> None:
    service.publish(*[b"{" * n for n in range(1, 301)])
    until(lambda: len(online.all(RequestRefused)) == 300)
    still_serves(online, service)


RAW = bytes(range(128, 256))
REFUSED: tuple[dict[str, Any], ...] = (
    {"content_type": "application/json; charset=utf-8"}, {"content_type": "Application/JSON"},
    {"content_type": "\x1b[2J\n"}, {"content_type": RAW}, {"content_type": "x" * 255},
    {"timestamp": 2**63 - 1}, {"timestamp": 2**64 - 1}, {"timestamp": 0},
)  # fmt: skip
TAKEN: tuple[dict[str, Any], ...] = (
    {"headers": {"k" * 255: ["\n\x1b[2J"] * 2000, "": None}}, {"headers": {"x": RAW}},
    {"content_encoding": "gzip"}, {"content_encoding": RAW}, {"delivery_mode": 1},
    {"priority": 255}, {"correlation_id": RAW}, {"reply_to": "amq.rabbitmq.nobody"},
    {"reply_to": "\n\x1b[2J"}, {"expiration": "60000"}, {"message_id": RAW},
    {"message_id": "\ud800".encode("utf-8", "surrogatepass")}, {"type": RAW}, {"app_id": RAW},
    {"cluster_id": RAW}, {"type": "\n\x1b[2J"},
)  # fmt: skip


def test_A4_properties_of_any_kind(online: FakeMaster, service: FakeService) -> None:
    """Those that say what the message is are taken at their word, others are nobody's."""
    for number, properties in enumerate(REFUSED, 1):
        service.publish(service.request(), **properties)
        until(lambda number=number: len(online.all(RequestRefused)) == number)  # type: ignore
        assert not online.all(StartRequested), properties
    for properties in TAKEN:
        request = service.request()
        service.publish(request, **properties)
        told = online.next(StartRequested)
        assert told.request["name"] == request["kwargs"]["name"], properties
        online.send(Settle(told.token))
    assert len(online.all(RequestRefused)) == len(REFUSED)
    assert not online.all(EndpointOnline)[1:], "it was never offline"
    assert all(line.isprintable() for line in online.log.read_text().splitlines())
    still_serves(online, service)


@pytest.mark.parametrize("value", ODD_HEADERS.values(), ids=ODD_HEADERS)
def test_A4_headers_that_pika_cannot_decode(
    online: FakeMaster, service: FakeService, value: bytes
) -> None:
    """They matter to nobody here: a request with them is served, on the same connection."""
    request = service.request()
    with service.channel() as channel:
        channel.confirm_delivery()
        properties = OddProperties(value, int(time.time()))
        for body in (b"{}", json.dumps(request).encode()):
            channel.basic_publish("", service.command_queue, body, properties)
    online.next(RequestRefused)
    told = online.next(StartRequested)
    assert told.request["name"] == request["kwargs"]["name"]
    online.send(Settle(told.token))
    assert not online.all(EndpointOnline)[1:], "it was never offline"
    still_serves(online, service)


def test_request_too_large_for_a_frame(online: FakeMaster, service: FakeService) -> None:
    """3.8 MB in UTF-8 become 11 MB in ASCII."""
    request = service.request()
    request["globus_identity_set"][0]["name"] = "\u00e9" * 1_900_000
    service.publish(json.dumps(request, ensure_ascii=False).encode())
    assert "exceeds" in online.next(RequestRefused).reason
    service.next_report(lambda r: "exceeds" in r.global_state.get("error", ""))
    still_serves(online, service)


def cut(service: FakeService, master: FakeMaster) -> None:
    """Have the broker close the worker's connections."""
    online_before = len(master.all(EndpointOnline))
    pids = []
    for line in control(service.rabbit, "list_connections", "pid", "peer_port").splitlines():
        pid, _, port = line.partition("\t")
        ports = {c.laddr.port for c in psutil.Process(master.process.pid).net_connections()}
        if port.isdigit() and int(port) in ports:
            pids.append(pid)
    for pid in pids:
        control(service.rabbit, "close_connection", pid, "test")
    until(lambda: len(master.all(EndpointOnline)) >= online_before + 2)


def test_A5_ack_for_an_older_channel_is_dropped(online: FakeMaster, service: FakeService) -> None:
    service.publish(service.request(), service.request())
    old = [online.next(StartRequested), online.next(StartRequested)]
    cut(service, online)
    new = [online.next(StartRequested), online.next(StartRequested)]
    assert [m.request for m in new] == [m.request for m in old]
    assert not {m.token for m in new} & {m.token for m in old}
    for message in old:
        online.send(Settle(message.token))
    online.send(Settle(new[0].token))
    online.send(Stop())
    assert online.process.wait(10) == 0
    assert until(service.ready_messages) == 1


def test_A5_tokens_of_an_earlier_life(
    online: FakeMaster, service: FakeService, tmp_path: Path
) -> None:
    service.publish(service.request())
    old = online.next(StartRequested)
    online.process.kill()
    until(service.ready_messages)
    second = FakeMaster(tmp_path / "log2")
    try:
        second.send(service.serve(endpoint_id=service.endpoint_id))
        assert second.next(StartRequested).token != old.token
        second.send(Settle(old.token))
        second.send(Stop())
        assert second.process.wait(10) == 0
        assert until(service.ready_messages) == 1
    finally:
        second.close()


def test_A6_prefetch_at_most_64(online: FakeMaster, service: FakeService) -> None:
    service.publish(*[service.request() for _ in range(100)])
    until(lambda: len(online.all(StartRequested)) == 64)
    assert service.ready_messages() == 36
    online.send(Settle(online.all(StartRequested)[0].token))
    until(lambda: len(online.all(StartRequested)) == 65)
    assert service.ready_messages() == 35


def test_T6_silent_channel_close_is_noticed(
    rabbit: Rabbit, master: FakeMaster, service: FakeService
) -> None:
    """RabbitMQ's consumer_timeout closes the channel alone; the connection stays."""
    def configure(timeout: int, tick: int) -> None:
        for name, value in (("consumer_timeout", timeout), ("channel_tick_interval", tick)):
            control(rabbit, "eval", f"application:set_env(rabbit, {name}, {value}).")

    configure(2000, 200)
    try:
        service.publish(service.request())
        master.send(service.serve())
        first = master.next(StartRequested)
        down = master.next(EndpointOnline, online=False)
        assert "PRECONDITION_FAILED" in down.reason
        again = master.next(StartRequested, timeout=60)
        assert again.request == first.request
        assert again.token != first.token
        master.send(Settle(first.token))
    finally:
        configure(1_800_000, 60_000)
    # A channel keeps the timeout it was opened with.
    control(rabbit, "close_all_connections", "as usual again")
    settle_all(master, service)
    still_serves(master, service)


def revoke(rabbit: Rabbit, how: str) -> None:
    """Take from the account ``worker`` what it has, while it is connected."""
    if how == "deleted":
        control(rabbit, "delete_user", "worker")
    elif how == "password":
        control(rabbit, "change_password", "worker", "another")
    else:
        control(rabbit, "set_permissions", "worker", "", "", "")
    if how != "deleted":
        control(rabbit, "close_all_connections", "as after a network fault")


@pytest.mark.parametrize("how", ["deleted", "password", "permissions"])
def test_A3_credentials_revoked(
    rabbit: Rabbit, master: FakeMaster, service: FakeService, how: str
) -> None:
    """Each try asks the service for others; what was held comes again."""
    control(rabbit, "add_user", "worker", "canary-word")
    control(rabbit, "set_permissions", "worker", ".*", ".*", ".*")
    good = service.url
    service.url = rabbit.url("worker", "canary-word")
    try:
        master.send(service.serve())
        master.next(EndpointOnline, online=True)
        service.publish(service.request())
        held = master.next(StartRequested)
        revoke(rabbit, how)
        until(lambda: "refused" in master.all(EndpointOnline)[-1].reason.lower())
        assert not master.all(EndpointOnline)[-1].online
        service.url = good
        master.next(EndpointOnline, online=True, timeout=60)
        assert master.next(StartRequested).request == held.request
        settle_all(master, service)
        assert "canary" not in master.log.read_text()
        still_serves(master, service)
    finally:
        if how != "deleted":
            control(rabbit, "delete_user", "worker")


def test_A3_credentials_of_heartbeats_revoked(
    rabbit: Rabbit, master: FakeMaster, service: FakeService
) -> None:
    """The service gives others; what listens for start requests stays."""
    control(rabbit, "add_user", "worker", "canary-word")
    control(rabbit, "set_permissions", "worker", ".*", ".*", ".*")
    service.heartbeat_url = rabbit.url("worker", "canary-word")
    master.send(service.serve())
    master.next(EndpointOnline, online=True)
    service.next_report(lambda r: True)
    service.publish(service.request())
    held = master.next(StartRequested)
    service.answers = [(503, {"reason": "later"})]
    service.heartbeat_url = None
    control(rabbit, "delete_user", "worker")
    until(lambda: "the broker refused the credentials" in master.log.read_text())
    service.reports()
    service.next_report(lambda r: r.global_state == {"heartbeat_period": 0.5})
    assert [r[0] for r in service.requests[:3]] == ["POST", "PUT", "PUT"]
    assert "no new credentials for its heartbeats" in master.log.read_text()
    assert "canary" not in master.log.read_text()
    assert not master.all(EndpointOnline)[1:], "it was never offline"
    master.send(Settle(held.token))
    still_serves(master, service)


def test_A9_a_master_that_stands_still_gives_back_what_it_holds(
    service: FakeService, tmp_path: Path
) -> None:
    """Not one that never pings, nor one that goes on pinging; to whom else listens."""
    master = FakeMaster(tmp_path / "log", prelude="main.MASTER_PATIENCE_S = 1.5")
    standby = FakeMaster(tmp_path / "standby", prelude="main.MASTER_PATIENCE_S = 1.5")
    try:
        for one in (master, standby):
            one.send(service.serve())
            one.next(EndpointOnline, online=True)
        service.publish(service.request())
        held = master.next(StartRequested)
        for _ in range(10):
            master.send(Ping())
            time.sleep(0.3)
        assert master.process.poll() is None and len(master.all(Pong)) == 10
        assert standby.next(StartRequested).request == held.request
        assert master.process.wait(10) == 75
        assert "has been silent" in master.log.read_text()
        settle_all(standby, service)
        assert standby.process.poll() is None
    finally:
        master.close()
        standby.close()


def test_A9_of_two_masters_one_is_active(
    online: FakeMaster, service: FakeService, tmp_path: Path
) -> None:
    """The other takes over when it dies, also what the dead one held."""
    standby = FakeMaster(tmp_path / "standby")
    try:
        standby.send(service.serve())
        standby.next(EndpointOnline, online=True)
        service.publish(*[service.request() for _ in range(10)])
        until(lambda: len(online.all(StartRequested)) == 10)
        for told in online.all(StartRequested)[:4]:
            online.send(Settle(told.token))
        until(lambda: service.kept() == 6)
        assert standby.all(StartRequested) == []
        online.process.kill()
        until(lambda: len(standby.all(StartRequested)) == 6)
        held = {m.request["name"] for m in online.all(StartRequested)[4:]}
        assert {m.request["name"] for m in standby.all(StartRequested)} == held
        settle_all(standby, service)
        still_serves(standby, service)
    finally:
        standby.close()


def test_A7_a_replay_within_the_window_is_one_start(
    online: FakeMaster, service: FakeService
) -> None:
    """Beside the first, after it was settled, and on a later channel."""
    request, now = service.request(), int(time.time())
    service.publish(request, request, timestamp=now)
    first = online.next(StartRequested)
    until(lambda: service.kept() == 1)
    online.send(Settle(first.token))
    until(lambda: service.kept() == 0)
    service.publish(request, timestamp=now)
    until(lambda: service.kept() == 0)
    control(service.rabbit, "close_all_connections", "a network fault")
    online.next(EndpointOnline, online=False)
    online.next(EndpointOnline, online=True)
    service.publish(request, timestamp=now)
    until(lambda: service.kept() == 0)
    assert len(online.all(StartRequested)) == 1
    assert "came again as it was" in online.log.read_text()
    still_serves(online, service)


def test_A7_one_that_was_settled_is_known_when_it_is_old(
    online: FakeMaster, service: FakeService
) -> None:
    """Its ack may have been lost with a broker that was away for long; it may run."""
    request, old = service.request(), int(time.time()) - 176
    service.publish(request, timestamp=old)
    online.send(Settle(online.next(StartRequested).token))
    until(lambda: service.kept() == 0)
    until(lambda: time.time() - old > 181)
    service.publish(request, timestamp=old)
    until(lambda: service.kept() == 0)
    assert "came again as it was" in online.log.read_text()
    assert not online.all(RequestRefused) and len(online.all(StartRequested)) == 1
    assert not [r for r in service.reports() if "error" in r.global_state]
    still_serves(online, service)


@pytest.mark.parametrize("told", [True, False])
def test_A1_a_start_that_failed_untold_is_begun_anew(
    rabbit: Rabbit, online: FakeMaster, service: FakeService, told: bool
) -> None:
    """The broker dies before its notice is out; what was told is not begun again."""
    request = service.request()
    service.publish(request)
    first = online.next(StartRequested)
    rabbit.kill()
    try:
        online.next(EndpointOnline, online=False)
        online.send(SendNotice("n1", "debug", "no", request["kwargs"]["amqp_creds"]))
        assert not online.next(NoticeDone).sent
        online.send(Settle(first.token, told=told))
    finally:
        rabbit.start()
    online.next(EndpointOnline, online=True, timeout=60)
    if not told:
        again = online.next(StartRequested)
        assert again.request == first.request
        online.send(Settle(again.token))
    until(lambda: service.kept() == 0)
    assert len(online.all(StartRequested)) == 1 + (not told)
    still_serves(online, service)


def test_A3_queue_deleted(online: FakeMaster, service: FakeService) -> None:
    with service.channel() as channel:
        channel.queue_delete(service.command_queue)
    assert "cancelled" in online.next(EndpointOnline, online=False).reason
    until(lambda: "NOT_FOUND" in online.all(EndpointOnline)[-1].reason)
    service.reports()
    service.declare()
    online.next(EndpointOnline, online=True)
    service.next_report(lambda r: r.global_state == {"heartbeat_period": 0.5})
    still_serves(online, service)


def test_A3_credentials_refused(
    rabbit: Rabbit, master: FakeMaster, service: FakeService
) -> None:
    good = service.url
    service.url = rabbit.url("nobody", "canary@pass/word")
    master.send(service.serve())
    assert "refused the credentials" in master.next(EndpointOnline, online=False).reason
    until(lambda: len(service.requests) >= 3)  # each try asks for fresh credentials
    assert [r[0] for r in service.requests[:3]] == ["POST", "PUT", "PUT"]
    service.url = good
    master.next(EndpointOnline, online=True)
    assert "canary" not in master.log.read_text()
    still_serves(master, service)


ALARMS = {
    "memory": ("set_vm_memory_high_watermark", "0.00001", "0.4"),
    "disk": ("set_disk_free_limit", "1000000GB", "50MB"),
}


@pytest.mark.parametrize("kind", ALARMS)
def test_A3_alarms_of_the_broker(
    rabbit: Rabbit, online: FakeMaster, service: FakeService, kind: str
) -> None:
    """Heartbeats wait, starts and acks go on, notices give up in time; then all resumes."""
    service.publish(service.request(), service.request())
    tokens = [online.next(StartRequested).token for _ in range(2)]
    command, beyond, usual = ALARMS[kind]
    control(rabbit, command, beyond)
    try:
        online.send(Settle(tokens[0]))
        online.send(SendNotice("n1", "debug", "no", service.creds(str(uuid.uuid4()))))
        online.send(Settle(tokens[1]))
        assert not online.next(NoticeDone).sent
        assert not [m for m in online.all(EndpointOnline) if not m.online]
    finally:
        control(rabbit, command, usual)
    service.reports()
    service.next_report(lambda r: r.global_state == {"heartbeat_period": 0.5})
    assert service.ready_messages() == 0
    still_serves(online, service)


def test_A3_heartbeat_exchange_deleted(online: FakeMaster, service: FakeService) -> None:
    """No reason to stop listening, or to give back what is held."""
    service.publish(service.request())
    token = online.next(StartRequested).token
    with service.channel() as channel:
        channel.exchange_delete(service.exchange)
    until(lambda: "heartbeat connection" in online.log.read_text())
    service.declare()
    service.reports()
    service.next_report(lambda r: True)
    assert not [m for m in online.all(EndpointOnline) if not m.online]
    online.send(Settle(token))
    still_serves(online, service)


def test_A2_broker_restarted(rabbit: Rabbit, online: FakeMaster, service: FakeService) -> None:
    service.publish(service.request())
    first = online.next(StartRequested)
    rabbit.stop()
    try:
        online.next(EndpointOnline, online=False)
    finally:
        rabbit.start()
    online.next(EndpointOnline, online=True, timeout=60)
    again = online.next(StartRequested)
    assert again.request == first.request
    online.send(Settle(again.token))
    still_serves(online, service)


def test_A8_notices_only_to_the_configured_broker(
    online: FakeMaster, service: FakeService
) -> None:
    """Neither by the master's order nor for a message of the queue does it call elsewhere."""
    with socket.create_server(("127.0.0.1", 0)) as trap:
        trap.settimeout(0)
        place = f"127.0.0.1:{trap.getsockname()[1]}"
        for number, url in enumerate(
            [
                f"amqp://u:canary@{place}/",
                f"amqp://u:canary@127.0.0.1:{service.rabbit.port}@{place}/",
                f"amqps://u:canary@127.0.0.1:{service.rabbit.port}/",
                f"http://{place}/",
                "amqp://\ud800/",
                "amqp://[::1/",
                "",
            ]
        ):
            request = service.request()
            creds = request["kwargs"]["amqp_creds"]
            creds["heartbeat_queue_info"]["connection_url"] = url
            online.send(SendNotice(str(number), "debug", "no", creds))
            done = online.next(NoticeDone, notice_id=str(number))
            assert not done.sent
            assert "canary" not in done.reason
            service.publish({**request, "command": None})
            online.next(RequestRefused)
        with pytest.raises(BlockingIOError):
            trap.accept()
    assert "canary" not in online.log.read_text()
    still_serves(online, service)


def test_A8_notices_8_in_flight_10_s_each(
    rabbit: Rabbit, online: FakeMaster, service: FakeService
) -> None:
    """A broker that has stopped in its tracks: connections open, nothing answers."""
    assert rabbit._server is not None
    tree = [psutil.Process(rabbit._server.pid)]
    tree += tree[0].children(recursive=True)
    (beam,) = [p for p in tree if p.name().startswith("beam")]
    worker = psutil.Process(online.process.pid)
    links = len(worker.net_connections("tcp"))
    most = 0

    def watch(finished: int) -> bool:
        nonlocal most
        most = max(most, len(worker.net_connections("tcp")) - links)
        return len(online.all(NoticeDone)) >= finished

    beam.suspend()
    try:
        started = time.monotonic()
        for number in range(20):
            creds = service.creds(str(uuid.uuid4()))
            online.send(SendNotice(str(number), "debug", "no", creds))
        until(lambda: watch(8))
        assert 9 < time.monotonic() - started < 12
        assert not any(m.sent for m in online.all(NoticeDone))
    finally:
        beam.resume()
    until(lambda: watch(20), 60)
    assert most == 8
    assert [m.sent for m in online.all(NoticeDone)].count(True) == 12
    assert sorted(int(m.notice_id) for m in online.all(NoticeDone)) == list(range(20))


def test_notices_that_cannot_be_delivered(online: FakeMaster, service: FakeService) -> None:
    creds = service.creds(str(uuid.uuid4()))
    publish = creds["heartbeat_queue_info"]["queue_publish_kwargs"]
    for number, (field, value, told) in enumerate(
        [
            ("routing_key", "nowhere", "no queue takes it"),
            ("exchange", "absent", "NOT_FOUND"),
            ("exchange", "x" * 256, "impossible"),
            ("exchange", "\ud800", "impossible"),
            ("routing_key", None, "lack"),
        ]
    ):
        changed = json.loads(json.dumps(creds))
        changed["heartbeat_queue_info"]["queue_publish_kwargs"] = {**publish, field: value}
        online.send(SendNotice(str(number), "debug", "no", changed))
        done = online.next(NoticeDone, notice_id=str(number))
        assert told in done.reason
    still_serves(online, service)
