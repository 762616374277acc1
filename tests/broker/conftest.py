"""The broker layer's fixtures: a real private RabbitMQ, and the AMQP worker on it."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from consumer_fixtures import FakeMaster, FakeService  # noqa: E402
from mepctl_site import site  # noqa: E402, F401
from mepd_fixtures import mepd  # noqa: E402, F401
from rabbit import Rabbit, server_script  # noqa: E402

from mepd.wire.worker import EndpointOnline  # noqa: E402
from tests.conftest import require  # noqa: E402


@pytest.fixture(scope="session")
def rabbit() -> Iterator[Rabbit]:
    """One node for the whole session, with the internal backend only."""
    require(server_script() is not None, "rabbitmq-server")
    node = Rabbit()
    try:
        node.start()
        yield node
    finally:
        node.remove()


@pytest.fixture
def service(rabbit: Rabbit) -> Iterator[FakeService]:
    """A service that registers one endpoint."""
    fake = FakeService(rabbit)
    yield fake
    fake.close()


@pytest.fixture
def master(tmp_path: Path) -> Iterator[FakeMaster]:
    """The AMQP worker, and the master's end of its socket."""
    fake = FakeMaster(tmp_path / "log")
    yield fake
    fake.close()


@pytest.fixture
def online(master: FakeMaster, service: FakeService) -> FakeMaster:
    """The AMQP worker, consuming."""
    master.send(service.serve())
    master.next(EndpointOnline, online=True)
    return master
