"""The whole mepd-uep program with an engine on Parsl, on a real broker."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from rabbit import Rabbit
from uep_fixtures import SERIALIZER, Service, Uep, services, starters, until

Start = Callable[..., Uep]
PARSL: dict[str, Any] = {
    "heartbeat_period": 0.5,
    "engine": {
        "type": "GlobusComputeEngine",
        "max_workers_per_node": 2,
        "address": "127.0.0.1",
        "provider": {"type": "LocalProvider", "max_blocks": 1},
    },
}


@pytest.fixture
def service(rabbit: Rabbit) -> Iterator[Service]:
    yield from services(rabbit)


@pytest.fixture
def start(service: Service, tmp_path: Path) -> Iterator[Start]:
    yield from starters(service, tmp_path)


def double(x: int) -> int:
    return 2 * x


def naps(path: str, seconds: float) -> None:
    import time

    with open(path, "a") as f:
        f.write("begun\n")
    time.sleep(seconds)


def gone(family: list[psutil.Process]) -> bool:
    return not any(p.is_running() and p.status() != psutil.STATUS_ZOMBIE for p in family)


def test_from_start_to_stop(service: Service, start: Start, tmp_path: Path) -> None:
    uep = start(PARSL)
    ids = {service.send(double, n): n for n in range(20)}
    for task_id, result in service.results(20).items():
        assert not result.is_error, result.data
        assert SERIALIZER.deserialize(result.data) == 2 * ids[task_id]
    reports = (service.status().global_state for _ in range(100))
    state = next(s for s in reports if s.get("idle_workers") == 2)
    assert state["engine_type"] == "GlobusComputeEngine" and state["managers"] == 1
    assert state["total_workers"] == 2 and state["active"] is True
    until(lambda: uep.report().done == 20, "a report of 20 done")
    maps = Path(f"/proc/{uep.process.pid}/maps").read_text()
    assert "zmq" not in maps and "python" in maps  # Parsl is in a process of its own
    titles = [" ".join(p.cmdline()).strip() for p in uep.workers()]
    for kind in ("parsl", "pool", "worker"):
        assert any(t.startswith("mepd-uep harper") and t.endswith(kind) for t in titles), titles
    slow = service.send(naps, str(tmp_path / "a"), 600)
    until((tmp_path / "a").exists, "the task to begin")
    family = uep.workers()
    uep.process.terminate()
    assert uep.wait() == 0
    result = service.result()
    assert result.task_id == slow and result.error_code == "EndpointLost"
    assert gone(family) and len(family) >= 5


def test_R1_blocks_end_with_the_manager(service: Service, start: Start, tmp_path: Path) -> None:
    uep = start(PARSL)
    service.send(naps, str(tmp_path / "a"), 600)
    until((tmp_path / "a").exists, "the task to begin")
    family = uep.workers()
    uep.notify.close()
    assert uep.wait(10) == 0
    until(lambda: gone(family), "the end of all")


def test_a_stop_while_it_starts_leaves_nothing(service: Service, start: Start) -> None:
    uep = start(PARSL)
    uep.report()
    time.sleep(0.3)
    family = uep.workers()
    uep.process.terminate()
    assert uep.wait() == 0
    until(lambda: gone(family), "the end of all")
