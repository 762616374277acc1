"""The AMQP worker on its straight way: register, consume, hand over, ack, report, stop."""

from __future__ import annotations

import os
import time
import uuid
from pathlib import Path
from typing import Any

import pytest
from consumer_fixtures import TOKEN, FakeMaster, FakeService, until

from mepd.wire.worker import (
    DropEndpoint,
    EndpointOnline,
    EndpointRegistered,
    NoticeDone,
    Ready,
    RegistrationFailed,
    RequestRefused,
    SendNotice,
    Settle,
    StartRequested,
    Stop,
)


def test_ready_registered_online(master: FakeMaster, service: FakeService) -> None:
    master.next(Ready)
    master.send(service.serve())
    assert master.next(EndpointRegistered) == EndpointRegistered("debug", service.endpoint_id)
    assert master.next(EndpointOnline) == EndpointOnline("debug", True)
    method, path, headers, body = service.requests[0]
    assert (method, path) == ("POST", "/v3/endpoints")
    assert headers["Authorization"] == f"Bearer {TOKEN}"
    assert body == {"endpoint_name": "debug", "multi_user": True}


def test_known_endpoint_by_client_credentials(master: FakeMaster, service: FakeService) -> None:
    credential = {"client_id": "someone", "client_secret": "canary-secret"}
    master.send(service.serve(endpoint_id=service.endpoint_id, credential=credential))
    master.next(EndpointOnline, online=True)
    (_, token_path, token_headers, grant), (method, path, headers, _) = service.requests
    assert token_path == "/v2/oauth2/token"
    assert grant == b"grant_type=client_credentials"
    assert token_headers["Authorization"] == "Basic c29tZW9uZTpjYW5hcnktc2VjcmV0"
    assert (method, path) == ("PUT", f"/v3/endpoints/{service.endpoint_id}")
    assert headers["Authorization"] == f"Bearer {TOKEN}"
    assert "canary" not in master.log.read_text()


def test_request_is_handed_over_and_acked_when_settled(
    online: FakeMaster, service: FakeService
) -> None:
    uep_id = str(uuid.uuid4())
    service.publish(service.request(uep_id), service.request())
    first, second = online.next(StartRequested), online.next(StartRequested)
    assert first.request["name"] == f"uep.{service.endpoint_id}.{uep_id}"
    assert first.request["amqp_creds"] == service.creds(uep_id)
    online.send(Settle(first.token))
    assert online.end() == 0
    # What was not settled is the broker's again; what was settled is not
    assert until(service.ready_messages) == 1
    assert second.token != first.token


def test_settling_twice_or_what_never_was(online: FakeMaster, service: FakeService) -> None:
    service.publish(service.request())
    token = online.next(StartRequested).token
    online.send(Settle(token))
    online.send(Settle(token))
    online.send(Settle(token.replace(":1:", ":77:")))
    online.send(Settle("no token at all"))
    service.publish(service.request())
    online.next(StartRequested)
    assert not [m for m in online.all(EndpointOnline) if not m.online]


def test_heartbeats_and_the_last_one(online: FakeMaster, service: FakeService) -> None:
    for _ in range(3):
        report = service.next_report(lambda r: True)
        assert report.endpoint_id == service.endpoint_id
        assert report.global_state == {"heartbeat_period": 0.5}
    online.send(Stop())
    assert online.process.wait(10) == 0
    service.next_report(lambda r: r.global_state == {"heartbeat_period": 0})


def test_dropped_endpoint_says_goodbye_and_gives_back(
    online: FakeMaster, service: FakeService
) -> None:
    service.publish(service.request())
    online.next(StartRequested)
    online.send(DropEndpoint("debug"))
    service.next_report(lambda r: r.global_state == {"heartbeat_period": 0})
    assert until(service.ready_messages) == 1
    assert online.process.poll() is None


def test_end_of_file_ends_the_worker_at_once(online: FakeMaster) -> None:
    started = time.monotonic()
    assert online.end() == 0
    assert time.monotonic() - started < 2  # the bar for all that outlives a master


def test_what_is_no_frame_ends_the_worker(online: FakeMaster) -> None:
    online.sock.sendall(b"\xff\xff\xff\xff")
    assert online.process.wait(10) == 76
    assert "unusable" in online.log.read_text()


def test_notice_of_the_master(online: FakeMaster, service: FakeService) -> None:
    uep_id = str(uuid.uuid4())
    online.send(SendNotice("n1", "debug", "no such user", service.creds(uep_id)))
    assert online.next(NoticeDone) == NoticeDone("n1", True)
    report = service.next_report(lambda r: "error" in r.global_state)
    assert report.endpoint_id == uep_id
    assert report.global_state == {"error": "no such user", "heartbeat_period": 3}


def test_notice_without_a_link(master: FakeMaster, service: FakeService) -> None:
    master.send(SendNotice("n1", "nobody", "no", service.creds(str(uuid.uuid4()))))
    assert master.next(NoticeDone) == NoticeDone("n1", False, "the endpoint is not served")


@pytest.mark.parametrize(
    ("status", "answer", "fatal", "told"),
    [
        (401, {}, True, "401"),
        (403, {"reason": "not yours"}, True, "not yours"),
        (404, b"<html>", True, "404"),
        (422, {}, True, "422"),
        (302, b"", True, "302"),
        (429, {}, False, "429"),
        (503, {"reason": "later"}, False, "later"),
        (200, b"{", False, "unusable"),
        (200, [], False, "unusable"),
        (200, {"endpoint_id": 7}, False, "lacks endpoint_id"),
        (200, {"endpoint_id": "../x"}, False, "impossible endpoint_id"),
    ],
)
def test_registration_refused(
    master: FakeMaster, service: FakeService, status: int, answer: Any, fatal: bool, told: str
) -> None:
    service.answers = [(status, answer)]
    master.send(service.serve())
    failed = master.next(RegistrationFailed)
    assert failed.fatal == fatal
    assert told in failed.reason
    if not fatal:
        master.next(EndpointOnline, online=True)
    assert TOKEN not in master.log.read_text()


def test_service_out_of_reach_then_back(master: FakeMaster, service: FakeService) -> None:
    base = service.base
    master.send(service.serve(service_url="http://127.0.0.1:1"))
    assert "cannot be reached" in master.next(RegistrationFailed).reason
    master.send(service.serve(service_url=base))
    master.next(EndpointOnline, online=True)


def test_slow_master_stalls_no_heartbeat(tmp_path: Path, service: FakeService) -> None:
    """64 requests of 250 KB: far more than the socket to the master takes."""
    master = FakeMaster(tmp_path / "log", reading=False)
    try:
        for _ in range(64):
            request = service.request()
            request["globus_identity_set"][0]["name"] = "x" * 250_000
            service.publish(request)
        master.send(service.serve())
        service.next_report(lambda r: True)
        until(lambda: service.ready_messages() == 0)
        for _ in range(4):
            service.next_report(lambda r: True)
        master.read()
        until(lambda: len(master.all(StartRequested)) == 64)
    finally:
        master.close()


def test_unread_log_stalls_no_heartbeat(tmp_path: Path, service: FakeService) -> None:
    """1,000 refused messages make more lines than a pipe holds."""
    reader, writer = os.pipe()
    master = FakeMaster(tmp_path / "log", stderr_fd=writer)
    os.close(writer)
    try:
        master.send(service.serve())
        master.next(EndpointOnline, online=True)
        service.publish(*[b"{"] * 1000)
        until(lambda: len(master.all(RequestRefused)) == 1000)
        for _ in range(3):
            service.next_report(lambda r: True)
    finally:
        master.close()
        os.close(reader)
