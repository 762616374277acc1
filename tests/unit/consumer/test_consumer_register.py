"""The service's answer, and how long it may take."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Iterator

import pytest

from mepd.consumer.register import register
from mepd.errors import ServiceError
from mepd.wire.worker import ServeEndpoint

HEAD = b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n"


@pytest.fixture
def drip(request: pytest.FixtureRequest) -> Iterator[str]:
    """A service that sends ``request.param``, and then a byte now and then."""
    over = threading.Event()

    def serve(server: socket.socket) -> None:
        with contextlib.suppress(OSError), server.accept()[0] as one:
            one.recv(65536)
            one.sendall(request.param)
            while not over.wait(0.1):
                one.sendall(b"x")

    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = threading.Thread(target=serve, args=(server,), daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.getsockname()[1]}"
        over.set()
        thread.join(5)


@pytest.mark.parametrize("drip", [b"", b"HTTP/1.1 200 OK\r\nX: ", HEAD], indirect=True)
def test_A3_an_answer_that_does_not_end_is_given_up(drip: str) -> None:
    begun = time.monotonic()
    with pytest.raises(ServiceError, match="cannot be reached"):
        register(ServeEndpoint("debug", None, drip, {}, 30.0, None, {"token": "t"}), None, 0.5)
    assert time.monotonic() - begun < 3
