"""What waits between broker and engine: order, budget, clearance. The disk is real."""

from __future__ import annotations

import uuid
from pathlib import Path

from mepd.uep.engines.base import EngineTask
from mepd.uep.intake import FOLDER, Intake


def task(size: int) -> EngineTask:
    return EngineTask(str(uuid.uuid4()), uuid.uuid4().bytes * (size // 16))


class Bench:
    def __init__(self, folder: Path | None, budget: int = 1000, window: int | None = None) -> None:
        self.got: list[EngineTask] = []
        self.lost: list[tuple[str, str]] = []
        self.intake = Intake(
            folder, self.got.append, lambda i, t: self.lost.append((i, t)),
            (lambda: window) if window is not None else None, budget,
        )  # fmt: skip


def test_bodies_over_the_budget_wait_on_disk_and_come_back_whole(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    tasks = [task(640) for _ in range(50)]
    for each in tasks:
        bench.intake.add(each)
        assert bench.intake.memory <= 1000
    assert len(bench.got) == 1
    assert len(list((tmp_path / FOLDER).iterdir())) == 49
    for each in tasks:
        bench.intake.forget(each.task_id)
        assert bench.intake.memory <= 1000
    assert bench.got == tasks
    assert not list((tmp_path / FOLDER).iterdir())
    assert bench.intake.memory == 0


def test_one_task_larger_than_the_budget_runs_alone(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    large, small = task(4096), task(16)
    bench.intake.add(large)
    bench.intake.add(small)
    assert bench.got == [large]
    bench.intake.forget(large.task_id)
    assert bench.got == [large, small]


def test_what_an_earlier_life_left_is_swept(tmp_path: Path) -> None:
    (tmp_path / FOLDER).mkdir()
    (tmp_path / FOLDER / str(uuid.uuid4())).write_bytes(b"old")
    Bench(tmp_path)
    assert not list((tmp_path / FOLDER).iterdir())


def test_a_body_that_is_gone_from_the_disk_is_told(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    first, second, third = task(640), task(640), task(16)
    for each in (first, second, third):
        bench.intake.add(each)
    (tmp_path / FOLDER / second.task_id).unlink()
    bench.intake.forget(first.task_id)
    assert bench.lost[0][0] == second.task_id and "No such file" in bench.lost[0][1]
    assert bench.got == [first, third]


def test_a_disk_that_takes_nothing_costs_memory_only(tmp_path: Path) -> None:
    (tmp_path / FOLDER).write_text("no folder")
    bench = Bench(tmp_path)
    tasks = [task(640) for _ in range(3)]
    for each in tasks:
        bench.intake.add(each)
    for each in tasks:
        bench.intake.forget(each.task_id)
    assert bench.got == tasks


def test_only_what_is_cleared_runs_and_no_more_than_the_window(tmp_path: Path) -> None:
    bench = Bench(tmp_path, window=2)
    tasks = [task(16) for _ in range(4)]
    for each in tasks:
        bench.intake.add(each, cleared=False)
    assert bench.got == []
    for each in tasks:
        bench.intake.clear(each.task_id)
    assert bench.got == tasks[:2] and len(bench.intake) == 2
    bench.intake.forget(tasks[0].task_id)
    assert bench.got == tasks[:3]
    assert bench.intake.drop() == [tasks[3].task_id]
