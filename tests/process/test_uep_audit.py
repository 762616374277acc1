"""A user endpoint whose audit log breaks: its loop, its engine and its journal, no broker."""

from __future__ import annotations

import os
import signal
import socket
import threading
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from mepd.config import uepconfig
from mepd.uep.document import Document
from mepd.uep.endpoint import JOURNAL, Endpoint
from mepd.uep.journal import Journal, Past
from mepd.uep.results import ResultStore
from mepd.uep.signals import STOP
from mepd.wire.message import Task, pack_task
from tests.process.test_uep_engines import SERIALIZER, by_value, double

NOBODY = "amqp://127.0.0.1:1/"


@pytest.fixture(autouse=True)
def _handlers() -> Iterator[None]:
    saved = {s: signal.getsignal(s) for s in (*STOP, signal.SIGCHLD)}
    yield
    signal.set_wakeup_fd(-1)
    for number, handler in saved.items():
        signal.signal(number, handler)


def make(folder: Path, audit: socket.socket) -> Endpoint:
    sent = {"connection_url": NOBODY, "queue_publish_kwargs": {}}
    endpoint_id = str(uuid.uuid4())
    creds = {
        "endpoint_id": endpoint_id,
        "task_queue_info": {"connection_url": NOBODY, "queue": "q"},
        "result_queue_info": sent,
        "heartbeat_queue_info": sent,
    }
    document = Document(endpoint_id, creds, "", {}, audit_fd=audit.detach())
    config = uepconfig.check({"engine": {"type": "ThreadPoolEngine", "max_workers": 1}})
    return Endpoint("uep.a.b", "harper", folder, document, config, lambda _title: None)


def read_until_it_may_run(log: socket.socket) -> None:
    """Answers each record, but takes none after that which lets the task run."""
    while b"EXEC_START" not in log.recv(4096):
        log.send(b"+")
    log.shutdown(socket.SHUT_RD)
    log.send(b"+")


def test_an_audit_log_that_breaks_as_a_task_begins_leaves_none_begun_and_not_run(
    tmp_path: Path,
) -> None:
    """Else the next life would answer that the endpoint died while running it."""
    log, ours = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    endpoint = make(tmp_path, ours)
    task_id = str(uuid.uuid4())
    parts = [SERIALIZER.serialize(p) for p in (by_value(double), (2,), {})]
    body = pack_task(Task(task_id, SERIALIZER.pack_buffers(parts)))
    headers = {"task_uuid": task_id, "function_uuid": str(uuid.uuid4())}
    reader = threading.Thread(target=read_until_it_may_run, args=(log,), daemon=True)
    reader.start()

    def deliver() -> None:
        """Once there is a worker that takes it at once."""
        if any(w.free for w in endpoint._engine._workers):  # type: ignore[attr-defined]
            endpoint._desk.deliver((0, 1), headers, body)  # type: ignore[arg-type]
        else:
            endpoint._loop.call_later(0.01, deliver)

    endpoint._loop.call_later(0, deliver)
    assert endpoint.run() == os.EX_OK
    reader.join()
    log.close()
    if Journal(tmp_path / JOURNAL).past(task_id) is not Past.UNKNOWN:
        assert task_id in ResultStore(tmp_path)  # else the broker gives it to the next life
