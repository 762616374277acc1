"""Several gateway processes on one PostgreSQL and one broker, behind one address."""

from __future__ import annotations

import contextlib
import json
import signal
import socket
import socketserver
import subprocess
import threading
from collections.abc import Iterator
from typing import Any

import pytest
import requests
from gateway_fixtures import FakeMep, Site, User, payload, poll, unique
from rabbit import free_port, server_script

from tests.conftest import require
from tests.postgres import Postgres, programs


class Balancer(socketserver.ThreadingTCPServer):
    """Passes each connection to the first of the ``ports`` that answers, in turn."""

    allow_reuse_address = True
    daemon_threads = True

    def __init__(self, port: int, ports: list[int]) -> None:
        super().__init__(("127.0.0.1", port), _Pass)
        self.ports = ports
        self._next = 0
        threading.Thread(target=self.serve_forever, args=(0.05,), daemon=True).start()

    def connect(self) -> socket.socket:
        self._next += 1
        for offset in range(len(self.ports)):
            port = self.ports[(self._next + offset) % len(self.ports)]
            with contextlib.suppress(OSError):
                return socket.create_connection(("127.0.0.1", port), 5)
        raise ConnectionRefusedError


class _Pass(socketserver.BaseRequestHandler):
    def handle(self) -> None:
        assert isinstance(self.server, Balancer)
        with contextlib.suppress(OSError), self.server.connect() as other:
            back = threading.Thread(target=_copy, args=(other, self.request), daemon=True)
            back.start()
            _copy(self.request, other)
            back.join()


def _copy(source: socket.socket, target: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(65536):
            target.sendall(data)
    with contextlib.suppress(OSError):
        target.shutdown(socket.SHUT_WR)


class Shared(Site):
    """A site with two gateway processes; ``url`` is the balancer's."""

    def __init__(self, database: str) -> None:
        self.ports = [free_port(), free_port()]
        super().__init__(listen=f"127.0.0.1:{self.ports[0]}", database=database)
        self.processes: list[subprocess.Popen[bytes] | None] = [None, None]
        self.balancer = Balancer(self.port, self.ports)
        for number, port in enumerate(self.ports):
            values = json.loads(self.config.read_text())
            values["listen"] = f"127.0.0.1:{port}"
            (self.dir / f"gateway{number}.yaml").write_text(json.dumps(values))

    def start(self, number: int) -> None:
        config = str(self.dir / f"gateway{number}.yaml")
        process = self._spawn(f"gateway{number}.log", "serve", "-c", config)
        self.processes[number] = process

        def ready() -> bool:
            assert process.poll() is None, self.log(f"gateway{number}.log")
            with contextlib.suppress(requests.RequestException):
                url = f"http://127.0.0.1:{self.ports[number]}/healthz"
                return bool(requests.get(url, timeout=5).json()["broker"])
            return False

        poll(ready, f"gateway {number}", 60)

    def kill(self, number: int) -> None:
        process = self.processes[number]
        assert process is not None
        process.send_signal(signal.SIGKILL)
        process.wait(10)
        self.processes[number] = None

    def remove(self) -> None:
        for number, process in enumerate(self.processes):
            if process is not None:
                self.kill(number)
        self.balancer.shutdown()
        self.balancer.server_close()
        super().remove()


@pytest.fixture(scope="module")
def site() -> Iterator[Shared]:
    require(server_script() is not None, "rabbitmq-server")
    require(programs() is not None, "postgresql")
    bin_dir = programs()
    assert bin_dir is not None
    server = Postgres(bin_dir)
    made: Shared | None = None
    try:
        server.start()
        made = Shared(server.create("gateway"))
        made.start_broker()
        made.start(0)
        made.start(1)
        yield made
    finally:
        if made is not None:
            made.remove()
        server.remove()


def double(x: int) -> int:
    return 2 * x


class Batch:
    """Tasks of one user, and whether each came back once."""

    def __init__(self, user: User, mep: FakeMep, function: str, count: int, **config: Any) -> None:
        self.user = user
        answer = user.submit(
            mep, {function: [payload(i) for i in range(count)]}, user_endpoint_config=config
        )
        assert answer.status_code == 200, answer.text
        self.ids: list[str] = answer.json()["tasks"][function]


def test_both_start_user_endpoints_and_hear_of_each_others(site: Shared) -> None:
    user = User(site, unique("harper"))
    mep = FakeMep(user).online()
    try:
        function = user.register(double)
        batches = [Batch(user, mep, function, 3, n=i) for i in range(4)]
        for batch in batches:
            poll(lambda b=batch: user.finished(b.ids), "results")
        assert len(mep.requests) == 4
        # however often it is asked, either process knows what the other has heard
        path = f"/v2/endpoints/{mep.id}/status"
        assert {user.call("GET", path).json()["status"] for _ in range(6)} == {"online"}
    finally:
        mep.stop()


@pytest.mark.parametrize("victim", [0, 1])
def test_any_of_them_dead(site: Shared, victim: int) -> None:
    user = User(site, unique("harper"))
    mep = FakeMep(user).online()
    mep.hold = threading.Event()
    try:
        function = user.register(double)
        before = [Batch(user, mep, function, 5, n=i) for i in range(4)]
        site.kill(victim)
        after = Batch(user, mep, function, 5, n=99)  # a start and tasks with the other alone
        mep.hold.set()
        for batch in [*before, after]:
            poll(lambda b=batch: user.finished(b.ids), "results", 60)
        done = [task for uep in mep.ueps for task in uep.done]
        assert sorted(done) == sorted(i for b in [*before, after] for i in b.ids)
    finally:
        site.start(victim)
        mep.stop()
