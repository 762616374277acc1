"""A worker of a block, without a block: one that is stopped while it starts, dies idle, or
dies in the middle of a frame."""

from __future__ import annotations

import contextlib
import os
import queue
import signal
import socket
import subprocess
import threading
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from mepd.posix.ended import has_ended
from mepd.uep.htex.slot import Slot, SlotTask, WorkerPlan
from mepd.wire.message import Result, Task, pack_task, unpack_result
from tests.conftest import wait_for
from tests.process.test_uep_engines import SERIALIZER, by_value, double

DEADLINE = 30.0


class Bench:
    """A slot, and what it says of its tasks: a result, or why there is none."""

    def __init__(self, folder: Path) -> None:
        setup = {
            "threads": 1,
            "endpoint_id": str(uuid.uuid4()),
            "folder": str(folder),
            "sandbox": False,
            "allowed_serializers": [],
            "title": "mepd-uep test worker",
        }
        self.tasks: queue.Queue[SlotTask] = queue.Queue()
        self.said: queue.Queue[Result | str] = queue.Queue()
        self.slot = Slot(
            WorkerPlan(setup, {}),
            self.tasks.get,
            lambda _task, packed: self.said.put(unpack_result(packed)),
            lambda _task, text: self.said.put(text),
            self.said.put,
        )
        self.slot.start()

    def submit(self, function: Callable[..., Any], *args: Any) -> None:
        parts = [SERIALIZER.serialize(p) for p in (by_value(function), args, {})]
        task_id = str(uuid.uuid4())
        body = pack_task(Task(task_id, SERIALIZER.pack_buffers(parts)))
        self.tasks.put(SlotTask(self.tasks.qsize(), task_id, (), body))

    def hear(self) -> Any:
        """What it says next; the value, if it is one."""
        said = self.said.get(timeout=DEADLINE)
        if isinstance(said, str):
            return said
        assert not said.is_error, said.data
        return SERIALIZER.deserialize(said.data)


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[[], Bench]]:
    made: list[Bench] = []

    def one() -> Bench:
        made.append(Bench(tmp_path))
        return made[-1]

    yield one
    for bench in made:
        bench.slot.kill()


def test_workers_of_a_block_that_stand_still_while_they_start_are_its_end(
    start: Callable[[], Bench], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else the block would take tasks, and none of them would ever end."""
    stopped = tmp_path / "stopped"
    stopped.write_text("#!/bin/sh\nkill -STOP $$\n")
    stopped.chmod(0o755)
    monkeypatch.setattr("mepd.uep.htex.slot.START_TIME", 0.05, raising=False)
    monkeypatch.setattr("mepd.uep.htex.slot.LOOK_EVERY", 0.05)
    monkeypatch.setattr("mepd.uep.htex.slot.sys.executable", str(stopped))
    assert start().hear() == "the workers die while starting"


def test_a_worker_of_a_block_that_dies_idle_costs_no_task(start: Callable[[], Bench]) -> None:
    """Else the next task, which had not begun, would be lost in its place."""
    bench = start()
    bench.submit(double, 1)
    assert bench.hear() == 2
    assert bench.slot._process is not None
    pid = bench.slot._process.pid
    os.kill(pid, signal.SIGKILL)
    wait_for(lambda: has_ended(pid), what="the worker's end")
    bench.submit(double, 2)
    assert bench.hear() == 4


def dies_in_the_middle_of_a_frame() -> None:
    """With a child that has all its descriptors, and stays."""
    import os
    import signal
    import sys

    if os.fork() == 0:
        signal.pause()
    os.write(int(sys.argv[1]), b"R")
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_worker_of_a_block_that_dies_in_the_middle_of_a_frame_is_told(
    start: Callable[[], Bench],
) -> None:
    """Else its task would never end, and its slot take no other."""
    bench = start()
    bench.submit(dies_in_the_middle_of_a_frame)
    assert "was killed by SIGKILL" in bench.hear()
    bench.submit(double, 2)
    assert bench.hear() == 4


def test_a_worker_of_a_block_that_dies_before_it_has_read_its_task_is_told() -> None:
    """Where something holds its socket open, a large task would wait for room without end."""
    slot = Slot(WorkerPlan({}, {}), *[pytest.fail] * 4)  # type: ignore[arg-type]
    said: queue.Queue[Any] = queue.Queue()
    ours, theirs = socket.socketpair()
    with subprocess.Popen(["true"]) as worker, contextlib.ExitStack() as both:
        both.enter_context(ours)
        both.enter_context(theirs)
        wait_for(lambda: has_ended(worker.pid), what="the worker's end")
        slot._process = worker
        task = SlotTask(1, str(uuid.uuid4()), (), bytes(16 * 1024 * 1024))
        threading.Thread(target=lambda: said.put(slot._run(ours, task)), daemon=True).start()
        assert said.get(timeout=DEADLINE) is None
