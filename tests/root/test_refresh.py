"""Refreshed credentials of a UEP that runs: by a file that only mepd can write."""

from __future__ import annotations

import dataclasses
import gc
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from mepd.launch import refresh
from mepd.model import StartRequest
from tests.conftest import User
from tests.root import launching
from tests.root.masterparts import REPORTER, Harness

# A UEP that writes what it finds at every word of mepd's, and tries to write itself.
READER = (
    REPORTER
    + """
from cryptography.fernet import Fernet
document = json.load(open(0))
fd = document["mem_fd"]
def found():
    token = os.pread(fd, 1 << 20, 0)
    return json.loads(Fernet(document["enckey"]).decrypt(token)) if token else None
def attempt(call, *args):
    try:
        call(*args)
        return "worked"
    except OSError as e:
        return e.errno
forged = [attempt(os.pwrite, fd, b"x", 0), attempt(os.ftruncate, fd, 0),
          attempt(os.open, f"/proc/self/fd/{fd}", os.O_RDWR)]
report()
seen = [found()]
while True:
    with open(OUT + ".new", "w") as f:
        json.dump([seen, forged], f)
    os.rename(OUT + ".new", OUT)
    if not s.recv(65536):
        break
    seen.append(found())
"""
)
Make = Callable[..., Harness]


@pytest.fixture
def out(tmp_path: Path) -> Path:
    tmp_path.chmod(0o777)
    return tmp_path / "out"


@pytest.fixture
def make(tmp_path: Path, out: Path) -> Iterator[Make]:
    made: list[Harness] = []

    def build(name: str = "uep") -> Harness:
        body = f"OUT = {str(out)!r}\n{READER}"
        command = launching.script(tmp_path, body)
        made.append(Harness(launching.snapshot(command)))
        return made[-1]

    yield build
    for harness in made:
        harness.close()


def fresh(request: StartRequest, queue: str) -> StartRequest:
    creds = launching.creds(request.uep_id)
    creds["task_queue_info"] = {**creds["task_queue_info"], "queue": queue}
    return dataclasses.replace(request, amqp_creds=creds)


def started(h: Harness, user: User) -> StartRequest:
    request = launching.request(f"{user.name}@example.org")
    h.request(request)
    h.run_until(lambda: h.settled)
    return request


def said(out: Path) -> Any:
    return json.loads(out.read_text()) if out.exists() else [[], []]


def test_a_request_for_a_running_uep_refreshes_its_credentials(
    make: Make, harper: User, out: Path
) -> None:
    h = make()
    request = started(h, harper)
    pid = h.uep().process.pid
    for queue in ("first", "second"):
        token = h.request(fresh(request, queue))
        h.run_until(lambda token=token: token in h.settled)  # type: ignore[misc]
        h.run_until(lambda queue=queue: queue in str(said(out)[0]))  # type: ignore[misc]
    seen, forged = said(out)
    queues = [s["amqp_creds"]["task_queue_info"]["queue"] for s in seen]
    assert queues == [request.amqp_creds["task_queue_info"]["queue"], "first", "second"]
    assert forged == [9, 22, 13] and not h.notices  # EBADF, EINVAL, EACCES
    assert h.uep().process.pid == pid and h.endpoint.starts == 1


def test_many_refreshes_leave_nothing_open(make: Make, harper: User, out: Path) -> None:
    def descriptors() -> int:
        gc.collect()
        return len(os.listdir("/proc/self/fd"))

    h = make()
    before = descriptors()
    request = started(h, harper)
    running = descriptors()
    tokens = {h.request(fresh(request, f"q{n}")) for n in range(10)}
    h.run_until(lambda: tokens <= set(h.settled))
    h.run_until(lambda: len(h.table) == 1 and descriptors() == running)
    h.run_until(lambda: len(said(out)[0]) > 1)
    h.stopper.kill(h.uep(), "test")
    h.run_until(lambda: not len(h.table))
    h.run_until(lambda: descriptors() == before)


def test_credentials_that_cannot_be_written_are_told(
    make: Make, harper: User, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    h = make()
    request = started(h, harper)
    pid = h.uep().process.pid

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(refresh, "write", full)  # in the launch child, by the fork
    token = h.request(fresh(request, "first"))
    h.run_until(lambda: token in h.settled)
    assert "refreshed credentials: (OSError) [Errno 28] No space left" in caplog.text
    assert len(h.texts()) == 1 and h.uep().process.pid == pid
