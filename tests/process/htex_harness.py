"""An engine on Parsl on a real loop, for the tests of it."""

from __future__ import annotations

import signal
import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

from mepd.config import uepconfig
from mepd.uep.amqp import IOLoop
from mepd.uep.engines.base import EngineContext, EngineTask
from mepd.uep.engines.registry import make
from mepd.uep.signals import STOP, Signals
from mepd.wire.message import Result, Task, pack_task, unpack_result
from tests.process.test_uep_engines import SERIALIZER, by_value

ENDPOINT = str(uuid.uuid4())
DEADLINE = 60.0


class Harness:
    """An engine of a configuration on a real loop; its events are kept."""

    def __init__(self, folder: Path, **engine: Any) -> None:
        block = {"type": "GlobusComputeEngine", **engine}
        if block["type"] == "GlobusComputeEngine":
            block.setdefault("max_workers_per_node", 1)
        block.setdefault("provider", {"type": "LocalProvider"})
        block.setdefault("address", "127.0.0.1")
        self.folder = folder
        self.loop = IOLoop()
        self.begun_ids: list[str] = []
        self.results: dict[str, Result] = {}
        self.engine = make(
            uepconfig.check({"engine": block}).engine,
            EngineContext(ENDPOINT, folder, "mepd-uep test worker"),
            self,
            self.loop,
        )
        self.signals = Signals(self.loop, lambda _n: self.loop.stop(), self.engine.reap)
        self.engine.start()

    def begun(self, task_ids: Iterable[str]) -> None:
        self.begun_ids += task_ids

    def finished(self, task_id: str, packed: bytes) -> None:
        assert task_id not in self.results, "a task finished twice"
        self.results[task_id] = unpack_result(packed)

    def submit(self, function: Callable[..., Any], *args: Any, **options: Any) -> str:
        parts = [SERIALIZER.serialize(p) for p in (by_value(function), args, {})]
        task_id = str(uuid.uuid4())
        body = pack_task(Task(task_id, SERIALIZER.pack_buffers(parts)))
        self.engine.submit(EngineTask(task_id, body, **options))
        return task_id

    def until(self, check: Callable[[], Any]) -> None:
        end = time.monotonic() + DEADLINE

        def look() -> None:
            if check() or time.monotonic() > end:
                self.loop.stop()
            else:
                self.loop.call_later(0.01, look)

        self.loop.call_later(0, look)
        self.loop.start()
        assert check(), "not in time"

    def result(self, task_id: str) -> Result:
        self.until(lambda: task_id in self.results)
        return self.results[task_id]

    def value(self, task_id: str) -> Any:
        result = self.result(task_id)
        assert not result.is_error, result.data
        return SERIALIZER.deserialize(result.data)

    def end(self) -> list[str]:
        running = self.engine.stop()
        self.engine.close()
        return running


def double(x: int) -> int:
    return 2 * x


def sleeps(seconds: float) -> None:
    import time

    time.sleep(seconds)


def engines(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Harness]]:
    """A function that starts engines; they are ended with the module's tests."""
    made: list[Harness] = []
    saved = {s: signal.getsignal(s) for s in (*STOP, signal.SIGCHLD)}

    def start(folder: Path | None = None, **engine: Any) -> Harness:
        made.append(Harness(folder or tmp_path_factory.mktemp("uep"), **engine))
        return made[-1]

    yield start
    for harness in made:
        harness.end()
    signal.set_wakeup_fd(-1)
    for number, handler in saved.items():
        signal.signal(number, handler)
