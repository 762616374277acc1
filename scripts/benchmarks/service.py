"""The web service and the researchers' end of the broker, the same for both managers."""

from __future__ import annotations

import json
import time
import uuid
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qs

import pika
from consumer_fixtures import FakeService
from rabbit import Rabbit
from uep_fixtures import pack_call

from mepd.gateway.oauth.scopes import group_scopes
from mepd.wire.message import Task, pack_task, unpack_result, unpack_status

SDK_PORT = 5000
"""Where globus-compute-endpoint looks for a local service."""
PATIENCE = 120.0
PERSISTENT = pika.BasicProperties(delivery_mode=2)


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


@dataclass(frozen=True)
class Heard:
    """One status report of an endpoint, and when it came (monotonic)."""

    at: float
    endpoint_id: str


class Service(FakeService):
    """Registers one endpoint, starts user endpoints and sends them tasks."""

    def __init__(self, rabbit: Rabbit, port: int = 0) -> None:
        super().__init__(rabbit, port)
        self._connection = rabbit.connect()
        self._channel = self._connection.channel()
        self.results = f"{self.endpoint_id}.results"
        self._channel.queue_declare(self.results, durable=True)
        self._channel.queue_bind(self.results, self.exchange, "result")
        self.heard: list[Heard] = []
        self.finished: dict[str, float] = {}
        self._queues = [self.results]
        for queue, take in ((self.heartbeat_queue, self._hear), (self.results, self._finish)):
            self._channel.basic_consume(queue, take, auto_ack=True)

    def close(self) -> None:
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
        self.heard.append(Heard(time.monotonic(), report.endpoint_id))

    def _finish(self, _channel: Any, _method: Any, _properties: Any, body: bytes) -> None:
        now = time.monotonic()
        result = unpack_result(body)
        assert not result.is_error, result.data
        self.finished[result.task_id] = now

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

    def start_uep(self, account: str, engine: str = "ThreadPoolEngine") -> str:
        """Publish a start request; the UEP's id."""
        uep_id = str(uuid.uuid4())
        self._channel.queue_declare(f"{uep_id}.tasks", durable=True)
        self._queues.append(f"{uep_id}.tasks")
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

    def until(self, done: Any, what: str) -> None:
        """Serve the broker until ``done()``. Raises TimeoutError, and RuntimeError for a UEP
        that could not start."""
        end = time.monotonic() + PATIENCE
        while not done():
            self._connection.process_data_events(0.2)
            if time.monotonic() > end:
                raise TimeoutError(what)

    def first_reports(self, uep_ids: list[str]) -> list[float]:
        """When each UEP's first report came."""

        def all_heard() -> bool:
            return {h.endpoint_id for h in self.heard} >= set(uep_ids)

        self.until(all_heard, "first reports")
        first = {h.endpoint_id: h.at for h in reversed(self.heard)}
        return [first[uep_id] for uep_id in uep_ids]

    def results_of(self, task_ids: list[str]) -> list[float]:
        """When each result came."""
        left = set(task_ids)

        def all_finished() -> bool:
            left.difference_update(left & self.finished.keys())
            return not left

        self.until(all_finished, "results")
        return [self.finished[task_id] for task_id in task_ids]
