"""A fake mepd at the control socket, and mepctl as a process."""

from __future__ import annotations

import contextlib
import os
import pty
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mepd.wire import control
from mepd.wire.framing import FrameReader, encode_frame

UEP = {
    "user": "harper", "uid": 1001, "id": "e9090000-0000-4000-8000-000000000001",
    "name": "uep.4ade0000-0000-4000-8000-000000000001.e9090000-0000-4000-8000-000000000001",
    "endpoint": "gpu", "pid": 4242, "state": "RUNNING", "uptime": 3661.0, "running": 2,
    "done": 14, "idle": None, "soft": 10, "created": 1e9, "failure": None,
}  # fmt: skip
IDLE = {**UEP, "user": "jessie", "id": "77b10000-0000-4000-8000-000000000002", "pid": 4343,
        "name": f"{str(UEP['name'])[:41]}77b10000-0000-4000-8000-000000000002",
        "running": 0, "idle": 3,
        "failure": {"time": 0.0, "stage": "TEMPLATE", "code": 77, "reason": "x"}}  # fmt: skip
STATUS = {
    "master": {"pid": 4200, "uptime": 277500.0, "version": "0.1.0", "state": "RUNNING",
               "config": "/etc/mepd/mepd.conf"},
    "workers": [{"name": "amqp-consumer", "pid": 4201, "state": "RUNNING", "uptime": 60.0,
                 "restarts": 2}],
    "programs": [{"name": "gateway", "pid": None, "state": "FATAL", "uptime": 5.0,
                  "description": "exit code 1, three times"}],
    "endpoints": [{"name": "gpu", "id": None, "state": "offline", "online": False,
                   "connected": False, "ueps": 2, "starts": 3,
                   "failures": 1, "reason": "[bold]broker[/] is gone"}],
}  # fmt: skip
EVENT = {
    "time": 1e9, "event": "failed", "endpoint": "gpu", "user": "harper", "uid": 1001,
    "id": UEP["id"], "name": UEP["name"], "pid": 4242, "username": "h@example.org",
    "stage": "TEMPLATE", "code": 77, "seconds": 0.1, "reason": "(ValueError) no\x1b",
}  # fmt: skip


def killed(args: dict[str, Any]) -> dict[str, Any]:
    """What mepd would say: all, or the first."""
    signal = "KILL" if args.get("now") else args.get("signal", "TERM")
    ueps = [UEP, IDLE] if args.get("all") or len(args["targets"]) > 1 else [UEP]
    rows = [{k: u[k] for k in ("id", "name", "pid", "user")} for u in ueps]
    return {"killed": [{**row, "signal": signal} for row in rows]}


ANSWERS: dict[str, Any] = {
    "status": STATUS,
    "list": {"ueps": [UEP, IDLE]},
    "kill": killed,
    "version": {"version": "9.9.9"},
    "reload": {"changes": [], "waiting": "", "errors": []},
    "shutdown": {},
    "start": {"name": "gpu", "kind": "endpoint", "state": "offline"},
    "events": {"events": [EVENT]},
    "failures": {"failures": [EVENT]},
}


class FakeMepd:
    """Answers every request as ``answers`` says, and remembers it.

    An answer of bytes is sent as it is; a function is called with the arguments.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.answers: dict[str, Any] = dict(ANSWERS)
        self.requests: list[tuple[str, dict[str, Any]]] = []
        self._server = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._server.bind(str(path))
        self._server.listen()
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._server.accept()
                with connection, contextlib.suppress(OSError):
                    self._answer(connection)

    def _answer(self, connection: socket.socket) -> None:
        reader = FrameReader()
        while data := connection.recv(65536):
            for frame in reader.feed(data):
                verb, args = control.parse_request(frame)
                self.requests.append((verb, args))
                answer = self.answers[verb]
                answer = answer(args) if callable(answer) else answer
                if isinstance(answer, bytes):
                    connection.sendall(answer)
                    return
                if "ok" not in answer:
                    answer = control.answer(answer)
                connection.sendall(encode_frame(answer))

    def close(self) -> None:
        self._server.shutdown(socket.SHUT_RDWR)
        self._server.close()
        self._thread.join()


@contextlib.contextmanager
def fake_mepd(path: Path) -> Iterator[FakeMepd]:
    server = FakeMepd(path)
    try:
        yield server
    finally:
        server.close()


COMMAND = (sys.executable, "-I", "-m", "mepd.ctl.main")


def environment(**more: str) -> dict[str, str]:
    return {"PATH": os.environ["PATH"], "HOME": "/nonexistent", "LANG": "C.UTF-8", **more}


def mepctl(*words: str | Path, **more: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*COMMAND, *map(str, words)], capture_output=True, text=True, env=environment(**more),
        stdin=subprocess.DEVNULL, timeout=30,
    )  # fmt: skip


def on_a_terminal(*words: str | Path, typed: str = "") -> tuple[int, str]:
    """Exit code and all that the terminal, 100 columns wide, showed."""
    master, slave = pty.openpty()
    env = environment(TERM="xterm", COLUMNS="100")
    with subprocess.Popen(
        [*COMMAND, *map(str, words)], stdin=slave, stdout=slave, stderr=slave, env=env,
        start_new_session=True,
    ) as child:  # fmt: skip
        os.close(slave)
        if typed:
            os.write(master, typed.encode())
        shown = b""
        with contextlib.suppress(OSError):  # EIO: the other side is closed
            while data := os.read(master, 65536):
                shown += data
        code = child.wait(timeout=30)
    os.close(master)
    return code, shown.decode().replace("\r\n", "\n")
