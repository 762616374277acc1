"""The AMQP worker when an endpoint changes: quiet registration, draining, real moves."""

from __future__ import annotations

import dataclasses

import pytest
from consumer_fixtures import FakeMaster, FakeService, until

from mepd.wire.worker import (
    DrainEndpoint,
    DropEndpoint,
    EndpointOnline,
    NoticeDone,
    SendNotice,
    ServeEndpoint,
    Settle,
    StartRequested,
)

CHANGED = {"endpoint_name": "debug", "multi_user": True, "metadata": {"template": "new"}}


@pytest.fixture
def served(master: FakeMaster, service: FakeService) -> ServeEndpoint:
    """Online; as the master would say it again, with the id that it has learned."""
    serve = service.serve()
    master.send(serve)
    master.next(EndpointOnline, online=True)
    return dataclasses.replace(serve, endpoint_id=service.endpoint_id)


def test_a_changed_registration_leaves_the_link(
    master: FakeMaster, service: FakeService, served: ServeEndpoint
) -> None:
    service.publish(service.request())
    held = master.next(StartRequested).token
    service.answers.append((503, {"reason": "busy"}))
    master.send(served)  # nothing changed: nothing to tell
    master.send(dataclasses.replace(served, registration={"endpoint_name": "late"}))
    until(lambda: len(service.requests) == 2)
    assert service.requests[1][0] == "PUT"
    master.send(dataclasses.replace(served, registration=CHANGED))
    until(lambda: len(service.requests) == 3)
    assert service.requests[2][3] == CHANGED
    master.send(Settle(held))  # of the same channel still
    until(lambda: service.ready_messages() == 0)
    service.publish(service.request())
    assert master.next(StartRequested).token.split(":")[0] == held.split(":")[0]
    assert len(service.requests) == 3
    assert not [m for m in master.all(EndpointOnline) if not m.online]


def test_a_moved_queue_is_followed(
    master: FakeMaster, service: FakeService, served: ServeEndpoint
) -> None:
    service.command_queue += ".new"
    service.declare()
    master.send(dataclasses.replace(served, registration=CHANGED))
    master.next(EndpointOnline, online=False, reason="the service moved the endpoint's queue")
    service.publish(service.request())
    master.next(StartRequested)


def test_another_heartbeat_period_makes_another_link(
    master: FakeMaster, service: FakeService, served: ServeEndpoint
) -> None:
    master.send(dataclasses.replace(served, heartbeat_period=0.25))
    service.next_report(lambda r: r.global_state == {"heartbeat_period": 0.25})
    assert service.requests[1][0] == "PUT"


def test_draining_takes_nothing_and_finishes_what_it_has(
    master: FakeMaster, service: FakeService, served: ServeEndpoint
) -> None:
    service.publish(service.request())
    token = master.next(StartRequested).token
    master.send(DrainEndpoint("debug"))
    master.next(EndpointOnline, online=False, reason="draining")
    service.next_report(lambda r: r.global_state == {"heartbeat_period": 0})
    service.publish(service.request())
    assert until(service.ready_messages) == 1
    creds = service.creds("11111111-1111-4111-8111-111111111111")
    master.send(SendNotice("n1", "debug", "gone", creds))
    assert master.next(NoticeDone) == NoticeDone("n1", True)
    master.send(Settle(token))
    master.send(DropEndpoint("debug"))
    assert master.end() == 0
    assert service.ready_messages() == 1  # the settled one did not come back
    assert len(master.all(StartRequested)) == 1


def test_draining_before_it_is_online(master: FakeMaster, service: FakeService) -> None:
    service.answers += [(503, {})] * 3
    master.send(service.serve())
    until(lambda: len(service.requests) >= 1)
    master.send(DrainEndpoint("debug"))
    master.next(EndpointOnline, online=False, reason="draining")
    asked = len(service.requests)
    master.send(service.serve())  # configured again
    master.next(EndpointOnline, online=True)
    assert len(service.requests) > asked


def test_a_new_worker_tells_failures_of_an_endpoint_that_drains(
    master: FakeMaster, service: FakeService
) -> None:
    """The old worker knew its broker; without it the last notices would be lost."""
    master.send(service.serve())
    master.send(DrainEndpoint("debug"))
    creds = service.creds("11111111-1111-4111-8111-111111111111")
    master.send(SendNotice("n1", "debug", "gone", creds))
    assert master.next(NoticeDone) == NoticeDone("n1", True)
    service.next_report(lambda r: r.global_state.get("error") == "gone")
    service.publish(service.request())
    assert until(service.ready_messages) == 1
    assert not master.all(StartRequested)


def test_notices_of_an_endpoint_that_drains_do_not_wait_for_a_service_that_is_down(
    master: FakeMaster, service: FakeService
) -> None:
    service.answers += [(503, {})] * 3
    master.send(service.serve())
    master.send(DrainEndpoint("debug"))
    creds = service.creds("11111111-1111-4111-8111-111111111111")
    master.send(SendNotice("n1", "debug", "gone", creds))
    assert not master.next(NoticeDone).sent
