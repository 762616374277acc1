"""A whole site for the gateway's tests: private broker, gateway process, fake endpoints."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import traceback
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import pika
import pytest
import requests
from globus_compute_sdk.serialize import ComputeSerializer
from pika.exceptions import AMQPError

from mepd.wire import message, start_request
from rabbit import free_port

T = TypeVar("T")
SDK_PORT = 5000
"""Where the SDK's environment "local" looks for the service."""


def poll(check: Callable[[], T], what: str, seconds: float = 30.0) -> T:
    """The first true value of ``check``; fails after the deadline."""
    deadline = time.monotonic() + seconds
    while True:
        value = check()
        if value:
            return value
        if time.monotonic() > deadline:
            pytest.fail(f"not within {seconds} s: {what}")
        time.sleep(0.02)


def port_is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as the server does
        try:
            probe.bind(("127.0.0.1", port))
            return True
        except OSError:
            return False


class Site:
    """``program`` is the installed mepd-gateway; all commands go through it.

    ``at_sdk_port``: at the SDK's own port if it is free.
    """

    def __init__(self, at_sdk_port: bool = False, **settings: Any) -> None:
        self.dir = Path(tempfile.mkdtemp(prefix="mepd-site-"))
        self.program = str(Path(sys.executable).parent / "mepd-gateway")
        self.port = SDK_PORT if at_sdk_port and port_is_free(SDK_PORT) else free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.config = self.dir / "gateway.yaml"
        self._broker: subprocess.Popen[bytes] | None = None
        self._gateway: subprocess.Popen[bytes] | None = None
        self.broker_port = int(
            self.run(
                "broker-config",
                *("--dir", str(self.dir / "broker")),
                *("--gateway", self.url),
                *("--credentials", str(self.dir / "admin.json")),
            )
        )
        lines = {
            "listen": f"127.0.0.1:{self.port}",
            "database": f"sqlite:///{self.dir}/gateway.db",
            "broker": {"port": self.broker_port, "credentials": "admin.json"},
            **settings,
        }
        self.config.write_text(json.dumps(lines))  # YAML is a superset of JSON

    def run(self, *args: str, stdin: str = "") -> str:
        """The output of one command of mepd-gateway."""
        done = subprocess.run(
            [self.program, *args], capture_output=True, text=True, input=stdin, timeout=60
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def admin(self, group: str, verb: str, *args: str) -> dict[str, str]:
        text = self.run(group, verb, "-c", str(self.config), "--json", *args)
        values: dict[str, str] = json.loads(text)
        return values

    def admin_url(self) -> str:
        creds = json.loads((self.dir / "admin.json").read_text())
        account = f"{creds['username']}:{creds['password']}"
        return f"amqp://{account}@127.0.0.1:{self.broker_port}/%2F"

    # --- processes ------------------------------------------------------------
    def _spawn(self, log: str, *args: str) -> subprocess.Popen[bytes]:
        with (self.dir / log).open("ab") as out:
            return subprocess.Popen(
                [self.program, *args],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                start_new_session=True,
            )

    def start_broker(self) -> None:
        self._broker = self._spawn("broker.log", "broker", "--dir", str(self.dir / "broker"))

        def ready() -> bool:
            assert self._broker is not None and self._broker.poll() is None, self.log("broker.log")
            try:
                pika.BlockingConnection(pika.URLParameters(self.admin_url())).close()
                return True
            except (AMQPError, OSError):
                return False

        poll(ready, "broker", 60)

    def stop_broker(self) -> None:
        if self._broker is not None:
            self._broker.terminate()
            self._broker.wait(30)
            self._broker = None

    def start_gateway(self, wait: bool = True) -> None:
        self._gateway = self._spawn("gateway.log", "serve", "-c", str(self.config))
        if wait:
            poll(self.connected, "gateway with broker")

    @property
    def pid(self) -> int:
        assert self._gateway is not None
        return self._gateway.pid

    def connected(self) -> bool:
        assert self._gateway is not None and self._gateway.poll() is None, self.log()
        try:
            answer = requests.get(f"{self.url}/healthz", timeout=5).json()
        except requests.RequestException:
            return False
        return bool(answer["broker"])

    def stop_gateway(self, how: signal.Signals = signal.SIGTERM) -> int:
        assert self._gateway is not None
        self._gateway.send_signal(how)
        code = self._gateway.wait(30)
        self._gateway = None
        return code

    def log(self, name: str = "gateway.log") -> str:
        return (self.dir / name).read_text()

    def remove(self) -> None:
        with contextlib.suppress(AssertionError):
            self.stop_gateway()
        self.stop_broker()
        shutil.rmtree(self.dir, ignore_errors=True)


class User:
    """An identity with a client and a token; ``call`` makes requests in its name."""

    def __init__(self, site: Site, username: str, *options: str) -> None:
        self.site = site
        self.username = username
        self.id = site.admin("identity", "add", username, *options)["identity_id"]
        made = site.admin("client", "add", username)
        self.client_id, self.client_secret = made["client_id"], made["client_secret"]
        self.token = site.admin("token", "add", username)["token"]

    def call(self, method: str, path: str, body: Any = None, **kwargs: Any) -> requests.Response:
        headers = {"Authorization": f"Bearer {self.token}", **kwargs.pop("headers", {})}
        return requests.request(
            method, self.site.url + path, json=body, headers=headers, timeout=90, **kwargs
        )

    def submit(self, mep: FakeMep, tasks: dict[str, list[str]], **more: Any) -> requests.Response:
        return self.call("POST", f"/v3/endpoints/{mep.id}/submit", {"tasks": tasks, **more})

    def statuses(self, task_ids: list[str]) -> dict[str, dict[str, Any]]:
        answer = self.call("POST", "/v2/batch_status", {"task_ids": task_ids})
        assert answer.status_code == 200, answer.text
        results: dict[str, dict[str, Any]] = answer.json()["results"]
        return results

    def finished(self, task_ids: list[str], status: str = "success") -> bool:
        found = self.statuses(task_ids)
        return len(found) == len(task_ids) and all(t["status"] == status for t in found.values())

    def register(self, function: Callable[..., Any], **more: Any) -> str:
        serde = ComputeSerializer()
        code = serde.pack_buffers([serde.serialize(function)])
        body = {"function_name": function.__name__, "function_code": code, **more}
        answer = self.call("POST", "/v3/functions", body)
        assert answer.status_code == 200, answer.text
        return str(answer.json()["function_uuid"])


def payload(*args: Any, **kwargs: Any) -> str:
    """Packed arguments, as a Batch makes them."""
    serde = ComputeSerializer()
    packed: str = serde.pack_buffers([serde.serialize(args), serde.serialize(kwargs)])
    return packed


class FakeUep(threading.Thread):
    """Checks in, runs tasks one by one in itself, says goodbye when stopped."""

    def __init__(self, creds: dict[str, Any], hold: threading.Event | None = None) -> None:
        super().__init__(daemon=True)
        self.creds = creds
        self.id = creds["endpoint_id"]
        self.hold = hold
        self.period = 30.0
        self.done: list[str] = []
        self.seen: list[dict[str, Any]] = []
        self._end = threading.Event()
        self._goodbye = True

    def run(self) -> None:
        with contextlib.suppress(AMQPError, OSError):
            self._serve()

    def _serve(self) -> None:
        info = self.creds["task_queue_info"]
        connection = pika.BlockingConnection(pika.URLParameters(info["connection_url"]))
        channel = connection.channel()
        channel.confirm_delivery()
        for other in ("result_queue_info", "heartbeat_queue_info"):  # as the peer does
            channel.exchange_declare(self.creds[other]["exchange"], passive=True)
            channel.queue_declare(self.creds[other]["queue"], passive=True)
        self.report(channel, {"heartbeat_period": self.period, "active": True})
        for method, properties, body in channel.consume(info["queue"], inactivity_timeout=0.02):
            while method and self.hold and not self.hold.is_set() and not self._end.is_set():
                connection.sleep(0.02)
            if self._end.is_set():
                break
            if method is not None:
                self.seen.append(dict(properties.headers))
                self.publish(channel, "result_queue_info", self.execute(body))
                channel.basic_ack(method.delivery_tag)
        if self._goodbye:
            self.report(channel, {"heartbeat_period": 0, "active": False})
        connection.close()

    def report(self, channel: Any, state: dict[str, Any]) -> None:
        report = message.StatusReport(self.id, state)
        self.publish(channel, "heartbeat_queue_info", message.pack_status(report))

    def publish(self, channel: Any, info: str, body: bytes) -> None:
        kwargs = dict(self.creds[info]["queue_publish_kwargs"])
        properties = pika.BasicProperties(**kwargs.pop("properties"))
        channel.basic_publish(body=body, properties=properties, **kwargs)

    def execute(self, body: bytes) -> bytes:
        task = message.unpack_task(body)
        serde = ComputeSerializer()
        try:
            function, args, kwargs = serde.unpack_and_deserialize(task.task_buffer)
            result = message.Result(task.task_id, serde.serialize(function(*args, **kwargs)))
        except Exception:
            text = traceback.format_exc()
            result = message.Result(task.task_id, text, None, "RemoteExecutionError", "failed")
        self.done.append(task.task_id)
        return message.pack_result(result)

    def stop(self, goodbye: bool = True) -> None:
        """Without goodbye: as one that was killed."""
        self._goodbye = goodbye
        self._end.set()
        self.join(20)


class FakeMep(threading.Thread):
    """Registers an endpoint and answers start requests: ``react`` gives an error's text,
    or None to start a FakeUep."""

    def __init__(self, owner: User, **registration: Any) -> None:
        super().__init__(daemon=True)
        body = {"endpoint_name": "fake", "multi_user": True, **registration}
        answer = owner.call("POST", "/v3/endpoints", body)
        assert answer.status_code == 200, answer.text
        self.info = answer.json()
        self.owner = owner
        self.id = self.info["endpoint_id"]
        self.requests: list[Any] = []
        self.ueps: list[FakeUep] = []
        self.hold: threading.Event | None = None
        self.uep_period = 30.0
        self.react: Callable[[Any], str | None] = lambda _request: None
        self._end = threading.Event()

    def run(self) -> None:
        with contextlib.suppress(AMQPError, OSError):
            self._serve()

    def _serve(self) -> None:
        info = self.info["command_queue_info"]
        connection = pika.BlockingConnection(pika.URLParameters(info["connection_url"]))
        channel = connection.channel()
        self.report(channel, self.info["heartbeat_queue_info"], {"heartbeat_period": 30})
        for method, properties, body in channel.consume(info["queue"], inactivity_timeout=0.02):
            if self._end.is_set():
                break
            if method is not None:
                self.handle(channel, body, properties)
                channel.basic_ack(method.delivery_tag)
        self.report(channel, self.info["heartbeat_queue_info"], {"heartbeat_period": 0})
        connection.close()

    def handle(self, channel: Any, body: bytes, properties: Any) -> None:
        """Decode as mepd's consumer does, so that both keep to one format."""
        request = start_request.decode(
            body, properties.content_type, properties.timestamp, time.time(), self.id
        )
        self.requests.append(request)
        error = self.react(request)
        if error is None:
            uep = FakeUep(request.amqp_creds, self.hold)
            uep.period = self.uep_period
            self.ueps.append(uep)
            uep.start()
        elif error:
            self.notice(request.amqp_creds, error)

    def notice(self, creds: dict[str, Any], text: str) -> None:
        """What mepd sends for a start that failed, with the start's own credentials."""
        info = creds["heartbeat_queue_info"]
        connection = pika.BlockingConnection(pika.URLParameters(info["connection_url"]))
        uep = FakeUep(creds)
        uep.report(connection.channel(), {"error": text, "heartbeat_period": 3})
        connection.close()

    def report(self, channel: Any, info: dict[str, Any], state: dict[str, Any]) -> None:
        kwargs = dict(info["queue_publish_kwargs"])
        properties = pika.BasicProperties(**kwargs.pop("properties"))
        body = message.pack_status(message.StatusReport(self.id, state))
        channel.basic_publish(body=body, properties=properties, **kwargs)

    def online(self) -> FakeMep:
        """Start, and return when the gateway knows it is there."""
        self.start()
        path = f"/v2/endpoints/{self.id}/status"
        poll(lambda: self.owner.call("GET", path).json()["status"] == "online", "endpoint online")
        return self

    def stop(self) -> None:
        for uep in self.ueps:
            if uep.is_alive():
                uep.stop()
        self._end.set()
        self.join(20)


@contextlib.contextmanager
def running_site(at_sdk_port: bool = False, **settings: Any) -> Iterator[Site]:
    site = Site(at_sdk_port, **settings)
    try:
        site.start_broker()
        site.start_gateway()
        yield site
    finally:
        if os.environ.get("MEPD_TEST_SHOW_LOG"):
            print(site.log())
        site.remove()


def unique(name: str) -> str:
    return f"{name}-{uuid.uuid4().hex[:8]}@example.org"
