"""The task desk with a fake engine and a fake broker; journal and store are real."""

from __future__ import annotations

import errno
import json
import os
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mepd.uep import failures
from mepd.uep.decisions import Action, TaskPolicy, decide
from mepd.uep.engines.base import EngineTask
from mepd.uep.journal import Journal, Past
from mepd.uep.results import ResultStore
from mepd.uep.taskfeed import Token
from mepd.uep.tasks import TaskDesk
from mepd.wire.message import Result, Task, pack_result, pack_task, unpack_result

ENDPOINT = str(uuid.uuid4())
FUNCTION = str(uuid.uuid4())


class FakeEngine:
    capacity = 2
    running = 0

    def __init__(self) -> None:
        self.submitted: list[EngineTask] = []

    def refusal(self, resources: dict[str, Any]) -> str | None:
        return "no resources here" if resources else None

    def submit(self, task: EngineTask) -> None:
        self.submitted.append(task)

    def drop_waiting(self) -> list[str]:
        return [t.task_id for t in self.submitted]


class FakeBroker:
    def __init__(self) -> None:
        self.results_up = True
        self.published: list[tuple[str, bytes]] = []
        self.acked: list[Token] = []

    def publish_result(self, task_id: str, packed: bytes) -> bool:
        if self.results_up:
            self.published.append((task_id, packed))
        return self.results_up

    def ack(self, tokens: list[Token]) -> None:
        self.acked += tokens


class Bench:
    def __init__(self, folder: Path, **policy: Any) -> None:
        self.journal = Journal(folder / "journal")
        self.store = ResultStore(folder)
        self.engine, self.broker, self.now = FakeEngine(), FakeBroker(), 0.0
        audit = policy.pop("audit", None)
        rest = {"sync": policy.pop("sync")} if "sync" in policy else {}
        self.desk = TaskDesk(
            TaskPolicy(ENDPOINT, **policy), self.journal, self.store, lambda: None, self.clock,
            folder, audit, **rest,
        )  # fmt: skip
        self.desk.attach(self.engine, self.broker)

    def clock(self) -> float:
        return self.now

    def deliver(self, task_id: str, tag: int = 1, generation: int = 1, **headers: Any) -> Token:
        token = Token(generation, tag)
        values = {"task_uuid": task_id, "function_uuid": FUNCTION, **headers}
        self.desk.deliver(token, values, pack_task(Task(task_id, "buffer")))
        return token


class FakeAudit:
    """Keeps records; ``written()`` says that all are in the log."""

    def __init__(self) -> None:
        self.records: list[str] = []
        self._then: list[Any] = []

    def note(
        self, task_id: str, function_id: str, state: str, text: str = "", then: Any = None
    ) -> None:
        self.records.append(state)
        self._then.append(then)

    def written(self) -> None:
        then, self._then = self._then, []
        for each in then:
            if each is not None:
                each()


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


@pytest.fixture
def task_id() -> str:
    return str(uuid.uuid4())


def packed(task_id: str) -> bytes:
    return pack_result(Result(task_id, "value"))


@pytest.mark.parametrize(
    ("known", "stored", "past", "retry", "action"),
    [
        (False, False, Past.UNKNOWN, False, Action.RUN),
        (False, False, Past.BEGUN, False, Action.LOST),
        (False, False, Past.BEGUN, True, Action.RUN),
        (False, False, Past.FINISHED, False, Action.ACK),
        (False, True, Past.BEGUN, False, Action.SEND),
        (True, False, Past.BEGUN, False, Action.JOIN),
        (True, True, Past.BEGUN, True, Action.JOIN),
    ],
)
def test_decide(known: bool, stored: bool, past: Past, retry: bool, action: Action) -> None:
    assert decide(known, stored, past, retry) is action


def test_the_ack_comes_after_the_confirm(bench: Bench, task_id: str) -> None:
    token = bench.deliver(task_id)
    assert [t.task_id for t in bench.engine.submitted] == [task_id]
    bench.desk.begun([task_id])
    bench.desk.finished(task_id, packed(task_id))
    assert bench.broker.published == [(task_id, packed(task_id))]
    assert bench.broker.acked == []
    bench.desk.confirmed([task_id])
    assert bench.broker.acked == [token]
    assert bench.journal.past(task_id) is Past.FINISHED
    moved = bench.desk.movement
    assert (moved.received, moved.done, moved.outstanding) == (1, 1, 0)


def test_the_ack_waits_for_the_journal_to_be_synced(tmp_path: Path) -> None:
    asked: list[Any] = []
    bench = Bench(tmp_path, sync=lambda then=None: asked.append(then))
    ids = [str(uuid.uuid4()) for _ in range(2)]
    tokens = [bench.deliver(i, tag) for tag, i in enumerate(ids, 1)]
    bench.desk.begun(ids)
    assert asked == [None]
    for task_id in ids:
        bench.desk.finished(task_id, packed(task_id))
        bench.desk.confirmed([task_id])
    assert bench.broker.acked == []
    asked[1]()  # this sync may have begun before the second confirm
    assert bench.broker.acked == tokens[:1]
    asked[2]()
    assert bench.broker.acked == tokens


def test_at_the_end_acks_wait_for_nobody(tmp_path: Path, task_id: str) -> None:
    asked: list[Any] = []
    bench = Bench(tmp_path, sync=lambda then=None: asked.append(then))
    token = bench.deliver(task_id)
    bench.desk.begun([task_id])
    bench.desk.finished(task_id, packed(task_id))
    bench.desk.confirmed([task_id])
    bench.desk.settle()
    asked[-1]()
    assert bench.broker.acked == [token]


def test_result_waits_on_disk_while_the_broker_is_gone(bench: Bench, task_id: str) -> None:
    bench.deliver(task_id)
    bench.broker.results_up = False
    bench.desk.finished(task_id, packed(task_id))
    assert bench.store.get(task_id) == packed(task_id)
    bench.broker.results_up = True
    bench.desk.outbox.send_kept()
    bench.desk.outbox.send_kept()
    assert bench.broker.published == [(task_id, packed(task_id))]
    again = bench.deliver(task_id, generation=2)
    bench.desk.confirmed([task_id])
    assert bench.store.pending() == [] and again in bench.broker.acked
    assert len(bench.engine.submitted) == 1


def test_no_more_results_are_in_memory_than_the_broker_confirms(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those that waited for a broker, and those that come while it is slow."""
    ids = sorted(str(uuid.uuid4()) for _ in range(6))
    size = len(packed(ids[0]))
    monkeypatch.setattr("mepd.uep.outbox.AWAY_MAX", 2 * size, raising=False)
    bench.broker.results_up = False
    for each in ids[:5]:
        bench.deliver(each)
        bench.desk.finished(each, packed(each))
    bench.broker.results_up = True
    bench.desk.outbox.send_kept()
    assert [i for i, _ in bench.broker.published] == ids[:2]
    bench.deliver(ids[5])
    bench.desk.finished(ids[5], packed(ids[5]))
    assert bench.store.get(ids[5]) == packed(ids[5])
    for number, each in enumerate(ids, 3):
        bench.desk.confirmed([each])
        assert [i for i, _ in bench.broker.published] == ids[:number]
    assert bench.store.pending() == [] and bench.desk.movement.outstanding == 0


def test_a_result_that_cannot_be_read_hinders_no_other(
    tmp_path: Path, task_id: str, caplog: pytest.LogCaptureFixture
) -> None:
    bench = Bench(tmp_path)
    bench.broker.results_up = False
    other = str(uuid.uuid4())
    for each in (task_id, other):
        bench.deliver(each)
        bench.desk.finished(each, packed(each))
    (tmp_path / "unacked_results" / task_id).unlink()
    (tmp_path / "unacked_results" / task_id).symlink_to("/dev/zero")
    bench.broker.results_up = True
    bench.desk.outbox.send_kept()
    found = {t: unpack_result(body) for t, body in bench.broker.published}
    assert not found[other].is_error and found[task_id].error_code == "ResultLost"
    assert f"{task_id} on disk is lost: Too many levels of symbolic links" in caplog.text


def gone(path: Path) -> None:
    pass


def fifo(path: Path) -> None:
    os.mkfifo(path)


def cut(path: Path) -> None:
    path.write_bytes(packed(path.name)[:-5])


def empty(path: Path) -> None:
    path.touch()


def garbage(path: Path) -> None:
    path.write_bytes(bytes(range(256)))


def anothers(path: Path) -> None:
    path.write_bytes(packed(str(uuid.uuid4())))


def huge(path: Path) -> None:
    with path.open("wb") as f:
        f.truncate(2**40)


@pytest.mark.parametrize(
    ("spoil", "restarted"),
    [(gone, False)]
    + [(s, life) for s in (fifo, cut, empty, garbage, anothers, huge) for life in (False, True)],
)
def test_a_spoilt_result_is_an_error_and_no_future_hangs(
    tmp_path: Path, task_id: str, spoil: Callable[[Path], None], restarted: bool
) -> None:
    bench = Bench(tmp_path)
    bench.broker.results_up = False
    bench.deliver(task_id)
    bench.desk.finished(task_id, packed(task_id))
    path = tmp_path / "unacked_results" / task_id
    path.unlink()
    spoil(path)
    if restarted:
        bench = Bench(tmp_path)
        bench.deliver(task_id)
    bench.broker.results_up = True
    bench.desk.outbox.send_kept()
    [(sent, body)] = bench.broker.published
    result = unpack_result(body)
    assert sent == result.task_id == task_id and result.error_code == "ResultLost"
    bench.desk.confirmed([task_id])
    assert len(bench.broker.acked) == 1 and not path.exists()
    assert bench.desk.outbox.unsent == 0


def test_a_result_that_the_disk_may_give_again_is_waited_for(
    bench: Bench, task_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.broker.results_up = False
    bench.deliver(task_id)
    bench.desk.finished(task_id, packed(task_id))
    bench.broker.results_up = True
    for number in (errno.EMFILE, errno.EIO, errno.ESTALE):
        with monkeypatch.context() as patch:
            patch.setattr(os, "open", failing(number))
            bench.desk.outbox.send_kept()
        assert bench.broker.published == []
    bench.desk.outbox.send_kept()
    assert bench.broker.published == [(task_id, packed(task_id))]


def failing(number: int) -> Callable[..., Any]:
    def fails(*_args: object, **_kwargs: object) -> None:
        raise OSError(number, os.strerror(number))

    return fails


def test_R7_what_the_disk_did_not_take_is_there_once_it_has_room(
    bench: Bench, task_id: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed after that, it runs no task twice and loses no result."""
    other = str(uuid.uuid4())
    bench.broker.results_up = False
    for each in (task_id, other):
        bench.deliver(each)
    with monkeypatch.context() as patch:
        patch.setattr(os, "write", failing(errno.ENOSPC))
        bench.desk.begun([task_id, other])
        bench.desk.finished(other, packed(other))
        bench.desk.catch_up()
    assert bench.store.pending() == [] and bench.desk.outbox.unsent == 1
    bench.desk.catch_up()
    after = Bench(tmp_path)
    assert after.journal.past(task_id) is after.journal.past(other) is Past.BEGUN
    assert after.store.get(other) == packed(other)


def test_R7_a_result_that_cannot_be_removed_is_settled_as_all_others(
    bench: Bench, task_id: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A home that became read-only after the result was kept."""
    other = str(uuid.uuid4())
    bench.broker.results_up = False
    tokens = []
    for tag, each in enumerate((task_id, other)):
        tokens.append(bench.deliver(each, tag))
        bench.desk.finished(each, packed(each))
    bench.broker.results_up = True
    bench.desk.outbox.send_kept()

    def read_only(_path: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(os, "unlink", read_only)
    bench.desk.confirmed([task_id, other])
    assert bench.broker.acked == tokens
    assert caplog.text.count("a result that was sent stays on disk: Read-only file system") == 1


def test_unconfirmed_result_is_sent_again(bench: Bench, task_id: str) -> None:
    bench.deliver(task_id)
    bench.desk.finished(task_id, packed(task_id))
    bench.desk.outbox.unconfirmed(task_id, packed(task_id))
    assert bench.store.pending() == [task_id]
    bench.desk.outbox.send_kept()
    assert len(bench.broker.published) == 2


def test_redelivery_of_a_finished_task_is_only_acked(bench: Bench, task_id: str) -> None:
    bench.deliver(task_id)
    bench.desk.finished(task_id, packed(task_id))
    bench.desk.confirmed([task_id])
    token = bench.deliver(task_id, generation=2)
    assert bench.broker.acked[-1] == token
    assert len(bench.engine.submitted) == 1 and len(bench.broker.published) == 1


def test_task_begun_in_an_earlier_life_is_an_error(tmp_path: Path, task_id: str) -> None:
    first = Bench(tmp_path)
    first.deliver(task_id)
    first.desk.begun([task_id])
    second = Bench(tmp_path)
    second.deliver(task_id)
    assert second.engine.submitted == []
    result = unpack_result(second.broker.published[0][1])
    assert result.error_code == failures.ENDPOINT_LOST
    assert "endpoint died while running" in result.data


def test_task_begun_in_an_earlier_life_runs_again_on_request(tmp_path: Path, task_id: str) -> None:
    Bench(tmp_path).desk.begun([task_id])
    second = Bench(tmp_path, retry_lost=True)
    second.deliver(task_id)
    assert [t.task_id for t in second.engine.submitted] == [task_id]


def test_result_of_an_earlier_life_is_sent_not_run(tmp_path: Path, task_id: str) -> None:
    first = Bench(tmp_path)
    first.deliver(task_id)
    first.desk.begun([task_id])
    first.broker.results_up = False
    first.desk.finished(task_id, packed(task_id))
    second = Bench(tmp_path)
    second.deliver(task_id)
    assert second.broker.published == [(task_id, packed(task_id))]
    assert second.engine.submitted == []


def test_allowed_functions(tmp_path: Path, task_id: str) -> None:
    bench = Bench(tmp_path, allowed_functions=frozenset({str(uuid.uuid4())}))
    token = bench.deliver(task_id)
    result = unpack_result(bench.broker.published[0][1])
    assert result.error_code == "FUNCTION_NOT_ALLOWED"
    assert result.data == f"Function {FUNCTION} not permitted on endpoint {ENDPOINT}"
    assert bench.engine.submitted == []
    bench.desk.confirmed([task_id])
    assert bench.broker.acked == [token]


def test_allowed_function_runs(tmp_path: Path, task_id: str) -> None:
    bench = Bench(tmp_path, allowed_functions=frozenset({FUNCTION}))
    bench.deliver(task_id, function_uuid=FUNCTION.upper())
    assert len(bench.engine.submitted) == 1


@pytest.mark.parametrize(
    "headers",
    [
        {"resource_specification": '{"num_nodes": 2}'},
        {"resource_specification": "[1]"},
        {"resource_specification": "{"},
        {"result_serializers": [1]},
        {"result_serializers": 7},
        {"function_uuid": 7},
        {"result_serializers": json.dumps(["x" * 70_000])},
        {"result_serializers": json.dumps(["é"] * 6000)},
        {"result_serializers": ["x"] * 6000},
        *({"task_uuid": value} for value in ("", "x", 7, [], {}, b"\xff", "é" * 36)),
    ],
)
def test_bad_headers_are_an_error_result(
    bench: Bench, task_id: str, headers: dict[str, Any]
) -> None:
    bench.deliver(task_id, **headers)
    result = unpack_result(bench.broker.published[0][1])
    assert result.is_error and result.data.startswith("Failed to start task")
    assert bench.engine.submitted == []


@pytest.mark.parametrize("task_uuid", ["", "x", "../../etc/passwd", 7, [], "é" * 36])
def test_a_message_without_an_id_never_loops(bench: Bench, task_uuid: Any) -> None:
    bench.desk.deliver(Token(1, 9), {"task_uuid": task_uuid}, b"junk")
    assert bench.broker.acked == [Token(1, 9)]
    bench.desk.deliver(Token(1, 10), {}, b"junk")
    assert bench.broker.acked == [Token(1, 9), Token(1, 10)]


def test_a_full_disk_keeps_the_result_in_memory(
    bench: Bench, task_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_args: object) -> None:
        raise OSError(28, "No space left on device")

    bench.deliver(task_id)
    bench.broker.results_up = False
    monkeypatch.setattr(bench.store, "put", full)
    monkeypatch.setattr(bench.journal, "_append", full)
    bench.desk.begun([task_id])
    bench.desk.finished(task_id, packed(task_id))
    assert bench.desk.outbox.unsent == 1
    bench.broker.results_up = True
    bench.desk.outbox.send_kept()
    bench.desk.confirmed([task_id])
    assert bench.desk.outbox.unsent == 0 and len(bench.broker.acked) == 1


def test_tasks_not_begun_are_given_back_at_the_end(bench: Bench, task_id: str) -> None:
    bench.deliver(task_id)
    bench.desk.release_waiting()
    assert bench.desk.movement.outstanding == 0 and bench.broker.acked == []


def test_tasks_killed_by_the_end_are_answered(bench: Bench, task_id: str) -> None:
    bench.deliver(task_id)
    bench.desk.begun([task_id])
    bench.desk.abandon([task_id])
    assert "was stopped while running" in unpack_result(bench.broker.published[0][1]).data


def test_the_clock_moves_with_tasks_and_results(bench: Bench, task_id: str) -> None:
    bench.now = 5.0
    bench.deliver(task_id)
    assert bench.desk.movement.last_move == 5.0
    bench.desk.finished(task_id, packed(task_id))
    bench.now = 9.0
    bench.desk.confirmed([task_id])
    assert bench.desk.movement.last_move == 9.0


def test_audited_a_task_runs_only_when_its_records_are_in_the_log(
    tmp_path: Path, task_id: str
) -> None:
    audit = FakeAudit()
    bench = Bench(tmp_path, audit=audit)
    bench.deliver(task_id)
    assert audit.records == ["RECEIVED", "EXEC_START"] and not bench.engine.submitted
    audit.written()
    assert [t.task_id for t in bench.engine.submitted] == [task_id]
    bench.desk.begun([task_id])
    bench.desk.finished(task_id, packed(task_id))
    assert audit.records == ["RECEIVED", "EXEC_START", "RUNNING", "EXEC_END"]


def test_audited_no_more_than_can_run_is_with_the_engine(tmp_path: Path) -> None:
    audit = FakeAudit()
    bench = Bench(tmp_path, audit=audit)
    for tag in range(5):
        bench.deliver(str(uuid.uuid4()), tag)
    audit.written()
    assert len(bench.engine.submitted) == FakeEngine.capacity
    first = bench.engine.submitted[0].task_id
    bench.desk.finished(first, packed(first))
    assert len(bench.engine.submitted) == FakeEngine.capacity + 1


def test_audited_a_refused_function_is_noted(tmp_path: Path, task_id: str) -> None:
    audit = FakeAudit()
    bench = Bench(tmp_path, audit=audit, allowed_functions=frozenset())
    bench.deliver(task_id)
    assert audit.records == ["RECEIVED", "FAILED", "EXEC_END"] and not bench.engine.submitted
