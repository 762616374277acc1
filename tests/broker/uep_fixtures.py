"""mepd-uep as a child of the test, on a real broker, with a real stdin document."""

from __future__ import annotations

import builtins
import json
import os
import signal
import socket
import subprocess
import sys
import time
import types
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pika
import pika.exceptions
import psutil
import yaml
from cryptography.fernet import Fernet
from globus_compute_sdk.serialize import ComputeSerializer
from rabbit import Rabbit

from mepd.wire.codec import decode, encode
from mepd.wire.framing import NOTIFY_FRAME_MAX, FrameReader, encode_frame
from mepd.wire.message import (
    Result,
    StatusReport,
    Task,
    pack_task,
    unpack_result,
    unpack_status,
)
from mepd.wire.activity import FROM_UEP, ActivityReport, Refreshed

DEADLINE = 30.0
SERIALIZER = ComputeSerializer()


def until(check: Callable[[], Any], what: str, deadline: float = DEADLINE) -> Any:
    """Poll ``check`` until it is true; its value."""
    end = time.monotonic() + deadline
    while True:
        value = check()
        if value:
            return value
        if time.monotonic() > end:
            raise AssertionError(f"not within {deadline} s: {what}")
        time.sleep(0.02)


def by_value(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function as a user's own script has it: not importable, so sent as code."""
    scope = {"__name__": "__main__", "__builtins__": builtins}
    return types.FunctionType(function.__code__, scope, function.__name__)


def pack_call(function: Callable[..., Any], *args: Any, **kwargs: Any) -> str:
    parts = [SERIALIZER.serialize(p) for p in (by_value(function), args, kwargs)]
    return SERIALIZER.pack_buffers(parts)


def waits_for(begun: str, go: str) -> str:
    """A task: notes that it runs, and waits for a file."""
    import os
    import time

    with open(begun, "a") as f:
        f.write("begun\n")
    while not os.path.exists(go):
        time.sleep(0.02)
    return "value"


class Service:
    """The service's side: the queues of one endpoint and what it sends and receives."""

    def __init__(self, rabbit: Rabbit) -> None:
        self.rabbit = rabbit
        self.endpoint_id = str(uuid.uuid4())
        self.name = f"uep.{uuid.uuid4()}.{self.endpoint_id}"
        self.task_queue = f"{self.endpoint_id}.tasks"
        self.result_queue = f"{self.endpoint_id}.results"
        self.heartbeat_queue = f"{self.endpoint_id}.heartbeats"
        self.exchange = f"{self.endpoint_id}.exchange"
        self.function_id = str(uuid.uuid4())
        self._connection: pika.BlockingConnection | None = None
        channel = self.channel()
        channel.exchange_declare(self.exchange, "topic", durable=True)
        channel.queue_declare(self.task_queue, durable=True)
        for queue in (self.result_queue, self.heartbeat_queue):
            channel.queue_declare(queue, durable=True)
            channel.queue_bind(queue, self.exchange, queue)

    def channel(self) -> Any:
        if not self._alive():
            self._connection = self.rabbit.connect()
            self._channel = self._connection.channel()
        elif not self._channel.is_open:
            self._channel = self._connection.channel()
        return self._channel

    def _alive(self) -> bool:
        """Whether our own connection has outlived what the test did to the broker."""
        try:
            if self._connection is not None:
                self._connection.process_data_events(0)
        except (pika.exceptions.AMQPError, OSError):
            return False
        return self._connection is not None and bool(self._connection.is_open)

    def close(self) -> None:
        channel = self.channel()
        for queue in (self.task_queue, self.result_queue, self.heartbeat_queue):
            channel.queue_delete(queue)
        channel.exchange_delete(self.exchange)
        assert self._connection is not None
        self._connection.close()

    def creds(self, **urls: str) -> dict[str, Any]:
        def info(name: str, queue: str) -> dict[str, Any]:
            publish = {"exchange": self.exchange, "routing_key": queue, "mandatory": True}
            return {
                "connection_url": urls.get(name, self.rabbit.url()),
                "queue": queue,
                "exchange": self.exchange,
                "queue_publish_kwargs": publish,
            }

        return {
            "endpoint_id": self.endpoint_id,
            "task_queue_info": info("tasks", self.task_queue),
            "result_queue_info": info("results", self.result_queue),
            "heartbeat_queue_info": info("heartbeats", self.heartbeat_queue),
        }

    def send(self, function: Callable[..., Any], *args: Any, **headers: Any) -> str:
        return self.send_buffer(pack_call(function, *args), **headers)

    def send_buffer(self, buffer: str, **headers: Any) -> str:
        task_id = headers.pop("task_uuid", None) or str(uuid.uuid4())
        values = {"task_uuid": task_id, "function_uuid": self.function_id, **headers}
        self.channel().basic_publish(
            "",
            self.task_queue,
            pack_task(Task(task_id, buffer)),
            pika.BasicProperties(headers=values, delivery_mode=2),
        )
        return task_id

    def _take(self, queue: str) -> bytes | None:
        _method, _properties, body = self.channel().basic_get(queue, auto_ack=True)
        return body

    def result(self, deadline: float = DEADLINE) -> Result:
        body = until(lambda: self._take(self.result_queue), "a result", deadline)
        return unpack_result(body)

    def results(self, count: int) -> dict[str, Result]:
        found = [self.result() for _ in range(count)]
        return {r.task_id: r for r in found}

    def value(self, deadline: float = DEADLINE) -> Any:
        result = self.result(deadline)
        assert result.error_code is None, result.data
        return SERIALIZER.deserialize(result.data)

    def status(self) -> StatusReport:
        return unpack_status(until(lambda: self._take(self.heartbeat_queue), "a status report"))

    def depth(self, queue: str) -> int:
        count: int = self.channel().queue_declare(queue, passive=True).method.message_count
        return count


class Uep:
    """A running mepd-uep and the manager's end of its notify socket."""

    def __init__(
        self,
        service: Service,
        home: Path,
        config: dict[str, Any],
        document: dict[str, Any] | None = None,
        creds: dict[str, Any] | None = None,
    ) -> None:
        self.service = service
        self.home = home
        self.folder = home / ".globus_compute" / service.name
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.log = self.folder / "endpoint.log"
        self.notify, theirs = socket.socketpair()
        self.notify.settimeout(DEADLINE)
        self._frames = FrameReader(NOTIFY_FRAME_MAX)
        self._reports: list[ActivityReport] = []
        self._key = Fernet.generate_key()
        self._credentials = os.memfd_create("credentials")
        body = {
            "amqp_creds": creds or service.creds(),
            "config": yaml.safe_dump(config),
            "ep_info": {"posix_ppid": os.getpid()},
            "notify_fd": theirs.fileno(),
            "mem_fd": self._credentials,
            "enckey": self._key.decode(),
            **(document or {}),
        }
        stdin = os.memfd_create("document")
        os.write(stdin, json.dumps(body).encode())
        os.lseek(stdin, 0, os.SEEK_SET)
        self.started = time.monotonic()
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [
                    sys.executable,
                    "-P",
                    "-m",
                    "mepd.uep.entry",
                    "start",
                    service.name,
                    "--die-with-parent",
                ],
                stdin=stdin,
                stdout=log,
                stderr=log,
                cwd=home,
                env={"HOME": str(home), "USER": "harper", "PATH": "/usr/bin:/bin"},
                pass_fds=(theirs.fileno(), self._credentials),
                start_new_session=True,
            )
        os.close(stdin)
        theirs.close()

    def report(self) -> ActivityReport:
        """The next activity report. Raises EOFError when the UEP has closed."""
        while not self._reports:
            data = self.notify.recv(65536)
            if not data:
                raise EOFError
            self._reports += [decode(o, FROM_UEP) for o in self._frames.feed(data)]
        return self._reports.pop(0)

    def refresh(self, creds: dict[str, Any], tell: bool = True) -> None:
        """Write credentials as globus-compute-endpoint does, and ``tell`` as mepd does."""
        token = Fernet(self._key).encrypt(json.dumps({"amqp_creds": creds}).encode())
        os.ftruncate(self._credentials, 0)
        os.pwrite(self._credentials, token, 0)
        if tell:
            self.notify.sendall(encode_frame(encode(Refreshed()), NOTIFY_FRAME_MAX))

    def scribble(self, other_key: bool) -> None:
        """Have the file of refreshed credentials hold something else."""
        forged = Fernet(Fernet.generate_key()).encrypt(b"{}") if other_key else bytes(range(256))
        os.pwrite(self._credentials, forged, 0)

    def text(self) -> str:
        return self.log.read_text()

    def stored(self) -> list[str]:
        """The tasks whose results wait on disk."""
        names = os.listdir(self.folder / "unacked_results")
        return [n for n in names if not n.startswith(".")]

    def workers(self) -> list[psutil.Process]:
        return [
            c
            for c in psutil.Process(self.process.pid).children(recursive=True)
            if c.status() != psutil.STATUS_ZOMBIE
        ]

    def wait(self, deadline: float = DEADLINE) -> int:
        return self.process.wait(deadline)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def end(self) -> None:
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
        self.notify.close()
        os.close(self._credentials)


THREADS = {"engine": {"type": "ThreadPoolEngine", "max_workers": 2}, "heartbeat_period": 0.5}
PROCESSES = {"engine": {"type": "ProcessPoolEngine", "max_workers": 2}, "heartbeat_period": 0.5}


def services(rabbit: Rabbit) -> Iterator[Service]:
    service = Service(rabbit)
    yield service
    service.close()


def starters(service: Service, home: Path) -> Iterator[Callable[..., Uep]]:
    """A function that starts UEPs of ``service``; they are ended with the test."""
    made: list[Uep] = []

    def start(config: dict[str, Any] | None = None, **kwargs: Any) -> Uep:
        made.append(Uep(service, home, config or THREADS, **kwargs))
        return made[-1]

    yield start
    for uep in made:
        uep.end()
