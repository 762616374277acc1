"""The AMQP worker as a process of its own, between a fake master, a fake service that
registers endpoints, and the real broker."""

from __future__ import annotations

import contextlib
import http.server
import json
import socket
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import pika
from rabbit import Rabbit, server_script

from mepd.gateway.names import command_queue_arguments
from mepd.wire import codec, framing, message, worker

T = TypeVar("T")
PATIENCE_S = 30.0
TOKEN = "canary-bearer-token"
_CHILD = """
import socket, sys
from mepd.consumer import main
PRELUDE
sys.exit(main.run(socket.socket(fileno=int(sys.argv[1]))))
"""


def until(probe: Callable[[], T], timeout: float = PATIENCE_S) -> T:
    """The first true value of ``probe``; fails after ``timeout`` seconds."""
    deadline = time.monotonic() + timeout
    while True:
        value = probe()
        if value or time.monotonic() > deadline:
            assert value, "what was waited for did not come"
            return value
        time.sleep(0.02)


def control(rabbit: Rabbit, *args: str) -> str:
    """rabbitmqctl on the private node."""
    script = Path(server_script() or "").with_name("rabbitmqctl")
    done = subprocess.run(
        [script, "-q", *args], env=rabbit._environ(), capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


class FakeMaster:
    """The other end of the worker's socketpair, and the worker's process."""

    def __init__(
        self, log: Path, reading: bool = True, stderr_fd: int | None = None, prelude: str = ""
    ) -> None:
        self.sock, theirs = socket.socketpair()
        self.log = log
        with theirs, log.open("wb") as file:
            stderr = file if stderr_fd is None else stderr_fd
            self.process = subprocess.Popen(
                [sys.executable, "-c", _CHILD.replace("PRELUDE", prelude), str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stderr=stderr,
            )
        self.messages: list[Any] = []
        self._seen = 0
        if reading:
            self.read()

    def read(self) -> None:
        """Begin to take what the worker sends."""
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        reader = framing.FrameReader()
        with contextlib.suppress(OSError):
            while data := self.sock.recv(65536):
                for obj in reader.feed(data):
                    self.messages.append(codec.decode(obj, worker.FROM_CONSUMER))

    def send(self, request: Any) -> None:
        self.sock.sendall(framing.encode_frame(codec.encode(request)))

    def all(self, kind: type[T]) -> list[T]:
        return [m for m in list(self.messages) if type(m) is kind]

    def next(self, kind: type[T], timeout: float = PATIENCE_S, **fields: Any) -> T:
        """The next message of a kind with such fields; those before it are skipped."""

        def probe() -> T | None:
            for index in range(self._seen, len(self.messages)):
                found = self.messages[index]
                if type(found) is kind and all(getattr(found, k) == fields[k] for k in fields):
                    self._seen = index + 1
                    return found
            return None

        found = until(lambda: probe() or self.process.poll() is not None or None, timeout)
        assert type(found) is kind, f"the worker ended:\n{self.log.read_text()}"
        return found

    def end(self) -> int:
        """The worker's exit code after the master's end of file."""
        self.sock.shutdown(socket.SHUT_RDWR)
        return self.process.wait(PATIENCE_S)

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        self.sock.close()


class FakeService:
    """Registers one endpoint: its queues are real, its answers can be chosen.

    ``answers`` are consumed first: each is (status, JSON object or bytes); afterwards every
    registration succeeds. ``requests`` are (method, path, headers, JSON body).
    ``identities`` are the caller's, as userinfo shows them; None for a service without.
    """

    def __init__(self, rabbit: Rabbit, port: int = 0) -> None:
        self.rabbit = rabbit
        self.endpoint_id = str(uuid.uuid4())
        self.command_queue = f"{self.endpoint_id}.commands"
        self.heartbeat_queue = f"{self.endpoint_id}.heartbeats"
        self.exchange = f"{self.endpoint_id}.reports"
        self.url = rabbit.url()
        self.heartbeat_url: str | None = None
        """In the place of ``url``, for heartbeats."""
        self.answers: list[tuple[int, Any]] = []
        self.identities: list[str] | None = [str(uuid.uuid4())]
        self.requests: list[tuple[str, str, dict[str, str], Any]] = []
        self.declare()
        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", port), self._handler())
        self.base = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        with contextlib.suppress(Exception), self.channel() as channel:
            channel.queue_delete(self.command_queue)
            channel.queue_delete(self.heartbeat_queue)
            channel.exchange_delete(self.exchange)

    def _handler(self) -> type[http.server.BaseHTTPRequestHandler]:
        service = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def _serve(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                with contextlib.suppress(ValueError):
                    body = json.loads(body)
                service.requests.append((self.command, self.path, dict(self.headers), body))
                status, answer = service.answer(self.path)
                data = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
                self.send_response(status)
                if status == 302:
                    self.send_header("Location", "http://127.0.0.1:1/elsewhere")
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            do_GET = do_POST = do_PUT = _serve

            def log_message(self, *args: Any) -> None:
                pass

        return Handler

    def answer(self, path: str) -> tuple[int, Any]:
        if path == "/v2/oauth2/token":
            return 200, {"access_token": TOKEN, "expires_in": 3600}
        if path == "/v2/oauth2/userinfo":
            return self.userinfo()
        return self.answers.pop(0) if self.answers else (200, self.registration())

    def userinfo(self) -> tuple[int, Any]:
        if self.identities is None:
            return 503, {"reason": "down for repairs"}
        linked = [{"sub": i, "username": f"{i}@example.com"} for i in self.identities]
        return 200, {"sub": self.identities[0], "identity_set": linked} if linked else {}

    def registration(self) -> dict[str, Any]:
        return {
            "endpoint_id": self.endpoint_id,
            "command_queue_info": {"connection_url": self.url, "queue": self.command_queue},
            "heartbeat_queue_info": self.heartbeat_info(),
        }

    def heartbeat_info(self) -> dict[str, Any]:
        return {
            "connection_url": self.heartbeat_url or self.url,
            "queue": self.heartbeat_queue,
            "exchange": self.exchange,
            "queue_publish_kwargs": {"exchange": self.exchange, "routing_key": "heartbeat"},
        }

    @contextlib.contextmanager
    def channel(self) -> Iterator[Any]:
        connection = self.rabbit.connect()
        try:
            yield connection.channel()
        finally:
            if connection.is_open:
                connection.close()

    def declare(self) -> None:
        with self.channel() as channel:
            channel.queue_declare(
                self.command_queue, durable=True, arguments=command_queue_arguments()
            )
            channel.queue_declare(self.heartbeat_queue, durable=True)
            channel.exchange_declare(self.exchange, "direct", durable=True)
            channel.queue_bind(self.heartbeat_queue, self.exchange, "heartbeat")

    def serve(self, **changes: Any) -> worker.ServeEndpoint:
        fields: dict[str, Any] = {
            "name": "debug",
            "endpoint_id": None,
            "service_url": self.base,
            "registration": {"endpoint_name": "debug", "multi_user": True},
            "heartbeat_period": 0.5,
            "credential": {"token": TOKEN},
        }
        return worker.ServeEndpoint(**{**fields, **changes})

    def creds(self, uep_id: str) -> dict[str, Any]:
        queue = {"connection_url": self.url, "queue": "x"}
        return {
            "endpoint_id": uep_id,
            "task_queue_info": queue,
            "result_queue_info": queue,
            "heartbeat_queue_info": self.heartbeat_info(),
        }

    def request(self, uep_id: str | None = None) -> dict[str, Any]:
        """A good start request."""
        uep_id = uep_id or str(uuid.uuid4())
        person = str(uuid.uuid4())
        return {
            "command": "cmd_start_endpoint",
            "args": [],
            "kwargs": {
                "name": f"uep.{self.endpoint_id}.{uep_id}",
                "amqp_creds": self.creds(uep_id),
                "user_opts": {},
                "user_runtime": {},
            },
            "globus_effective_identity": person,
            "globus_username": "harper@example.com",
            "globus_identity_set": [{"sub": person, "id": person, "username": "harper"}],
        }

    def publish(self, *bodies: Any, **properties: Any) -> None:
        """Put start requests into the command queue, confirmed."""
        properties = {
            "content_type": "application/json",
            "timestamp": int(time.time()),
            "delivery_mode": 2,
            **properties,
        }
        with self.channel() as channel:
            channel.confirm_delivery()
            for body in bodies:
                data = body if isinstance(body, bytes) else json.dumps(body).encode()
                channel.basic_publish(
                    "", self.command_queue, data, pika.BasicProperties(**properties)
                )

    def ready_messages(self) -> int:
        """Start requests that nobody holds."""
        with self.channel() as channel:
            declared = channel.queue_declare(self.command_queue, passive=True)
            count: int = declared.method.message_count
            return count

    def kept(self) -> int:
        """Start requests that are not acked."""
        queues = control(self.rabbit, "list_queues", "--no-table-headers", "name", "messages")
        return int(dict(line.split("\t") for line in queues.splitlines())[self.command_queue])

    def reports(self) -> list[message.StatusReport]:
        """Takes the status reports that have arrived."""
        found = []
        with self.channel() as channel:
            while True:
                method, _, body = channel.basic_get(self.heartbeat_queue, auto_ack=True)
                if method is None:
                    return found
                found.append(message.unpack_status(body))

    def next_report(
        self, wanted: Callable[[message.StatusReport], bool], timeout: float = PATIENCE_S
    ) -> message.StatusReport:
        """Wait for a report; others before and beside it are thrown away."""
        return until(lambda: next(filter(wanted, self.reports()), None), timeout)  # type: ignore
