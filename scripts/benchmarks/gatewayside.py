"""mepd behind its own gateway, with a person who submits as the SDK's executor does."""

from __future__ import annotations

import contextlib
import sys
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pika
import requests
from gateway_fixtures import Site, payload, poll
from gateway_fixtures import User as Person
from rabbit import Rabbit
from uep_fixtures import by_value

from benchmarks.service import answer
from benchmarks.sides import START_TIMEOUT_S, Managed, MepdSide, make_folder
from mepd.ctl import client
from mepd.errors import MepdError
from mepd.wire.message import unpack_result
from tests.conftest import User
from tests.postgres import Postgres, programs

PATIENCE = 120.0
UNBOUNDED = {"requests_per_second": 1e6, "requests_burst": 1_000_000}
"""The rate of requests is what is measured."""


@dataclass(frozen=True)
class Web:
    """The gateway as mepd's service."""

    base: str
    credential: dict[str, str]


class Results:
    """The results of one task group, from the queue that the SDK reads."""

    def __init__(self, person: Person) -> None:
        self.group = str(uuid.uuid4())
        found = person.call("GET", "/v2/get_amqp_result_connection_url").json()
        self._connection = pika.BlockingConnection(pika.URLParameters(found["connection_url"]))
        self._queue = found["queue_prefix"] + self.group
        self.finished: dict[str, float] = {}
        self.failure: Exception | None = None

    def listen(self) -> None:
        """Once the first submission of the group has made its queue."""
        channel = self._connection.channel()
        channel.basic_consume(self._queue, self._finish, auto_ack=True)

    def _finish(self, _channel: Any, _method: Any, _properties: Any, body: bytes) -> None:
        result = unpack_result(body)
        assert not result.is_error, result.data
        self.finished[result.task_id] = time.monotonic()

    def until(self, count: int) -> float:
        """When the last of so many results came. Raises ``failure`` where that is set."""
        end = time.monotonic() + PATIENCE
        while len(self.finished) < count:
            self._connection.process_data_events(0.2)
            if self.failure is not None:
                raise self.failure
            if time.monotonic() > end:
                raise TimeoutError(f"{len(self.finished)} of {count} results came")
        return max(self.finished.values())

    def close(self) -> None:
        self._connection.close()


@dataclass
class GatewaySide(Managed):
    """mepd, and the gateway where ``person`` has registered and submits."""

    site: Site
    store: Postgres | None
    person: Person
    endpoint_id: str = ""
    function: str = ""

    def online(self) -> None:
        """Return when the gateway has heard of the endpoint."""

        def state() -> dict[str, Any]:
            with contextlib.suppress(MepdError, OSError):
                [found] = client.call(self.socket, "status")["endpoints"]
                return dict(found) if found["state"] == "online" else {}
            return {}

        self.endpoint_id = poll(state, "the endpoint online")["id"]
        path = f"/v2/endpoints/{self.endpoint_id}/status"
        poll(lambda: self.person.call("GET", path).json()["status"] == "online", "a heartbeat")
        self.function = self.person.register(by_value(answer))

    def body(self, group: str, count: int, **config: Any) -> dict[str, Any]:
        """A submission of so many tasks to the user endpoint of this configuration."""
        return {
            "tasks": {self.function: [payload(7)] * count},
            "create_queue": True,
            "task_group_id": group,
            "user_endpoint_config": config,
        }

    def submit(self, session: requests.Session, body: dict[str, Any]) -> None:
        """Returns when the tasks are stored."""
        session.headers["Authorization"] = f"Bearer {self.person.token}"
        url = f"{self.site.url}/v3/endpoints/{self.endpoint_id}/submit"
        done = session.post(url, json=body, timeout=PATIENCE)
        assert done.status_code == 200, done.text

    @contextlib.contextmanager
    def results(self) -> Iterator[Results]:
        """Of a new group, whose one task has been done."""
        with contextlib.closing(Results(self.person)) as found, requests.Session() as session:
            self.submit(session, self.body(found.group, 1))
            found.listen()
            found.until(1)
            found.finished.clear()
            yield found

    def close(self) -> None:
        with contextlib.ExitStack() as stack:
            if self.store is not None:
                stack.callback(self.store.remove)
            stack.callback(self.site.remove)
            stack.callback(super().close)


def start(users: list[User], worker: User, store: Postgres | None) -> GatewaySide:
    """Broker, gateway and mepd; ``store`` is closed with them."""
    with contextlib.ExitStack() as stack:
        settings: dict[str, Any] = {**UNBOUNDED, "start_timeout": START_TIMEOUT_S}
        if store is not None:
            stack.callback(store.remove)
            store.start()
            settings["database"] = store.create("gateway")
        site = Site(**settings)
        stack.callback(site.remove)
        site.start_broker()
        site.start_gateway()
        person = Person(site, f"{users[0].name}@example.com")
        secret = {"client_id": person.client_id, "client_secret": person.client_secret}
        folder = make_folder()
        mepd = MepdSide(folder, Web(site.url, secret), worker)
        mepd.start()
        assert mepd.process is not None

        def log() -> str:
            return mepd.log() + site.log()

        stack.pop_all()
        side = GatewaySide("mepd", users, mepd.process, folder, log, site, store, person)
        try:
            side.online()
        except BaseException:
            print(side.log()[-3000:], file=sys.stderr)
            side.close()
            raise
        return side


def on_sqlite(_rabbit: Rabbit, users: list[User], worker: User) -> GatewaySide:
    return start(users, worker, None)


def on_postgresql(_rabbit: Rabbit, users: list[User], worker: User) -> GatewaySide:
    found = programs()
    if found is None:
        raise RuntimeError("postgresql is not installed")
    return start(users, worker, Postgres(found))
