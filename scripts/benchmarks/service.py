"""The web service and the researchers' end of the broker, the same for both managers."""

from __future__ import annotations

import contextlib
import json
import time
import uuid
from collections.abc import Callable
from typing import Any
from urllib.parse import parse_qs

import pika
from consumer_fixtures import FakeService
from pika.exceptions import AMQPError
from rabbit import Rabbit
from uep_fixtures import pack_call

from mepd.gateway.oauth.scopes import group_scopes
from mepd.wire.message import Task, pack_task, unpack_result, unpack_status

SDK_PORT = 5000
"""Where globus-compute-endpoint looks for a local service."""
PATIENCE = 120.0


def answer(x: Any) -> Any:
    """The task of all rows."""
    return x


def _tokens(groups: dict[str, list[str]]) -> dict[str, Any]:
    first, *others = (
        {
            "access_token": "t", "token_type": "Bearer", "expires_in": 86400,
            "resource_server": server, "scope": " ".join(scopes),
        }
        for server, scopes in groups.items()
    )  # fmt: skip
    return {**first, "other_tokens": others}


class Service(FakeService):
    """Registers one endpoint, starts user endpoints and sends them tasks.

    ``heard`` is when an endpoint's first status report came, ``finished`` when a task's
    result did (monotonic).
    """

    def __init__(self, rabbit: Rabbit, port: int = 0) -> None:
        super().__init__(rabbit, port)
        self.credential = {"token": "t"}
        self._connection = rabbit.connect()
        self._channel = self._connection.channel()
        self.results = f"{self.endpoint_id}.results"
        self._channel.queue_declare(self.results, durable=True)
        self._channel.queue_bind(self.results, self.exchange, "result")
        self.heard: dict[str, float] = {}
        self.finished: dict[str, float] = {}
        self._awaited: set[str] = set()
        self._queues = [self.results]
        for queue, take in ((self.heartbeat_queue, self._hear), (self.results, self._finish)):
            self._channel.basic_consume(queue, take, auto_ack=True)

    def close(self) -> None:
        with contextlib.suppress(AMQPError):
            for queue in self._queues:
                self._channel.queue_delete(queue)
            self._connection.close()
        super().close()

    def answer(self, path: str) -> tuple[int, Any]:
        if path == "/v2/oauth2/token":
            form = parse_qs(bytes(self.requests[-1][3]).decode())
            return 200, _tokens(group_scopes(form.get("scope", [""])[0]))
        if path.startswith("/v2/version"):
            return 200, {"api": "1", "min_sdk_version": "1.0.0", "min_ep_version": "1.0.0"}
        return super().answer(path)

    def _hear(self, _channel: Any, _method: Any, _properties: Any, body: bytes) -> None:
        report = unpack_status(body)
        if error := report.global_state.get("error"):
            raise RuntimeError(f"start failed: {error}")
        self.heard.setdefault(report.endpoint_id, time.monotonic())

    def _finish(self, _channel: Any, _method: Any, _properties: Any, body: bytes) -> None:
        now = time.monotonic()
        result = unpack_result(body)
        assert not result.is_error, result.data
        self.finished[result.task_id] = now
        self._awaited.discard(result.task_id)

    def creds(self, uep_id: str) -> dict[str, Any]:
        def info(queue: str, key: str) -> dict[str, Any]:
            publish = {"exchange": self.exchange, "routing_key": key, "mandatory": True}
            return {
                "connection_url": self.url, "queue": queue, "exchange": self.exchange,
                "queue_publish_kwargs": publish,
            }  # fmt: skip

        return {
            "endpoint_id": uep_id,
            "task_queue_info": info(f"{uep_id}.tasks", "none"),
            "result_queue_info": info(self.results, "result"),
            "heartbeat_queue_info": info(self.heartbeat_queue, "heartbeat"),
        }

    def new_uep(self) -> str:
        """The id of a UEP that nobody has started; its task queue is there."""
        uep_id = str(uuid.uuid4())
        self._channel.queue_declare(f"{uep_id}.tasks", durable=True)
        self._queues.append(f"{uep_id}.tasks")
        return uep_id

    def start_uep(self, account: str, engine: str = "ThreadPoolEngine") -> str:
        """Publish a start request; the UEP's id."""
        uep_id = self.new_uep()
        body = self.request(uep_id)
        username = f"{account}@example.com"
        body["globus_username"] = username
        body["globus_identity_set"][0].update(username=username, status="used")
        body["kwargs"]["user_opts"] = {"ENGINE": engine}
        properties = pika.BasicProperties(
            content_type="application/json", timestamp=int(time.time()), delivery_mode=2
        )
        self._channel.basic_publish("", self.command_queue, json.dumps(body).encode(), properties)
        return uep_id

    def send_tasks(self, uep_id: str, count: int) -> list[str]:
        """Publish tasks; their ids."""
        buffer = pack_call(answer, 7)
        ids = [str(uuid.uuid4()) for _ in range(count)]
        for task_id in ids:
            headers = {"task_uuid": task_id, "function_uuid": self.endpoint_id}
            body = pack_task(Task(task_id, buffer))
            properties = pika.BasicProperties(headers=headers, delivery_mode=2)
            self._channel.basic_publish("", f"{uep_id}.tasks", body, properties)
        return ids

    def until(self, done: Callable[[], bool], what: str, patience: float = PATIENCE) -> None:
        """Serve the broker until ``done()``. Raises TimeoutError, and RuntimeError for a UEP
        that could not start."""
        end = time.monotonic() + patience
        while not done():
            self._connection.process_data_events(0.2)
            if time.monotonic() > end:
                raise TimeoutError(f"{what} within {patience:g} s")

    def wait(self, seconds: float) -> None:
        """Serve the broker so long."""
        self._connection.sleep(seconds)

    def first_reports(self, uep_ids: list[str], patience: float = PATIENCE) -> list[float]:
        """When each UEP's first report came."""
        self.until(lambda: self.heard.keys() >= set(uep_ids), "first reports", patience)
        return [self.heard[uep_id] for uep_id in uep_ids]

    def results_of(
        self,
        task_ids: list[str],
        patience: float = PATIENCE,
        meanwhile: Callable[[], None] = lambda: None,
    ) -> list[float]:
        """When each result came; ``meanwhile`` is called again and again until then."""
        self._awaited = set(task_ids) - self.finished.keys()

        def all_finished() -> bool:
            meanwhile()
            return not self._awaited

        self.until(all_finished, "results", patience)
        return [self.finished[task_id] for task_id in task_ids]
