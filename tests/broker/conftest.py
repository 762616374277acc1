"""The broker layer's fixtures: a real private RabbitMQ."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from mepd_fixtures import mepd  # noqa: E402, F401
from rabbit import Rabbit, server_script  # noqa: E402


@pytest.fixture(scope="session")
def rabbit() -> Iterator[Rabbit]:
    """One node for the whole session, with the internal backend only."""
    if server_script() is None:
        pytest.skip("rabbitmq-server is not installed")
    node = Rabbit()
    try:
        node.start()
        yield node
    finally:
        node.remove()
