"""R7: the disk of a user's home is full, and has room again."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from rabbit import Rabbit
from uep_fixtures import THREADS, Service, Uep, services, starters, until, waits_for

from tests.conftest import need_root

Start = Callable[..., Uep]


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Path]:
    """A home on a disk of its own, of 1 MB."""
    need_root()
    folder = tmp_path / "home"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m,mode=700", "tmpfs", str(folder)]
    subprocess.run(mount, check=True, capture_output=True)
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.fixture
def service(rabbit: Rabbit) -> Iterator[Service]:
    yield from services(rabbit)


@pytest.fixture
def start(service: Service, home: Path) -> Iterator[Start]:
    yield from starters(service, home)


def fill(home: Path) -> Path:
    """Take what is left of the disk."""
    stuffing = home / "stuffing"
    with stuffing.open("wb", buffering=0) as f:
        try:
            while f.write(b"x" * 4096):
                pass
        except OSError:
            pass
    return stuffing


def double(x: int) -> int:
    return 2 * x


@pytest.mark.parametrize("engine", ["ThreadPoolEngine", "ProcessPoolEngine"])
def test_R7_a_full_disk_loses_nothing_and_stops_nothing(
    service: Service, start: Start, home: Path, engine: str
) -> None:
    uep = start({"engine": {"type": engine}})
    service.send(double, 1)
    assert service.value() == 2
    stuffing = fill(home)
    sent = [service.send(double, n) for n in range(200)]
    first = service.result()
    assert uep.process.poll() is None, uep.text()[-3000:]
    stuffing.unlink()
    found = {first.task_id: first, **service.results(199)}
    assert set(found) == set(sent)
    assert not [r.data for r in found.values() if r.error_code]
    assert uep.text().count("the task journal cannot be written: No space left") < 5
    service.send(double, 4)
    assert service.value() == 8


def test_R7_a_task_begun_on_a_full_disk_runs_once(
    service: Service, start: Start, home: Path, tmp_path: Path
) -> None:
    """The journal is told of it as soon as there is room."""
    uep = start(THREADS)
    service.send(double, 1)
    assert service.value() == 2
    stuffing = fill(home)
    for _ in range(150):  # what is left of the journal's last page
        service.send(double, 1)
    service.results(150)
    begun, go = tmp_path / "begun", tmp_path / "go"
    task_id = service.send(waits_for, str(begun), str(go))
    until(begun.exists, "the task to begin")
    journal = uep.folder / "tasks.journal"
    line = f"B {task_id}\n"
    assert line not in journal.read_text()
    stuffing.unlink()
    until(lambda: line in journal.read_text(), "the journal to know")
    uep.kill()
    start(THREADS)
    result = service.result()
    assert result.task_id == task_id and result.error_code == "EndpointLost"
    assert begun.read_text() == "begun\n"
