"""Work in batches, lines that are few, and results as they are read."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging

import pytest

from mepd.errors import WireError
from mepd.gateway import sparinglog, strict
from mepd.gateway.batcher import Batcher
from mepd.gateway.relay import RESULT_MAX, read_result
from mepd.gateway.sparinglog import SparingLog
from mepd.wire import message

TASK = "0b8b5d1e-5f6c-4f0e-9d3c-2f6f6f1f2f3a"


def test_what_fails_in_a_batch_fails_alone() -> None:
    done: list[list[int]] = []

    async def work(batch: list[int]) -> None:
        if 3 in batch:
            raise ValueError
        done.append(batch)

    async def run() -> None:
        batcher = Batcher("numbers", work)
        batcher.add(1, 2, 3, 4)
        job = asyncio.create_task(batcher.run())
        while not done or done[-1] != [5]:
            if done and done[-1] == [4]:
                batcher.add(5)
            await asyncio.sleep(0)
        job.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await job

    asyncio.run(asyncio.wait_for(run(), 20))
    assert done[:3] == [[1], [2], [4]] and done[-1] == [5]


def test_lines_about_one_sender_are_few(caplog: pytest.LogCaptureFixture) -> None:
    now = [0.0]
    few = SparingLog(logging.getLogger("few"), lambda: now[0])
    for _ in range(100):
        few.write(logging.WARNING, "loud", "dropped %s", "x")
    few.write(logging.WARNING, "calm", "dropped %s", "y")
    texts = [record.getMessage() for record in caplog.records]
    assert texts.count("dropped x") == sparinglog.EACH_MAX and texts.count("dropped y") == 1
    assert texts.count("loud: more such lines are counted only") == 1
    caplog.clear()
    now[0] += sparinglog.PERIOD_S
    few.write(logging.WARNING, "loud", "dropped %s", "z")
    texts = [record.getMessage() for record in caplog.records]
    assert texts == [f"loud: {100 - sparinglog.EACH_MAX} more such lines", "dropped z"]


def _packed(**data: object) -> bytes:
    return b"\x01" + json.dumps({"message_type": "result", "data": data}).encode()


def test_a_result_is_kept_as_it_is() -> None:
    body = message.pack_result(message.Result(TASK, "x" * 1000, {"a": 1}))
    assert read_result(body) == (TASK, body)


@pytest.mark.parametrize(
    "body",
    [
        _packed(task_id=TASK, data="\ud800"),
        _packed(task_id=TASK, data="\x00"),
        _packed(task_id=TASK, data="x", details={"a": {"b": "\x00"}}),
        _packed(task_id=TASK, data="x", details={"\ud800": 1}),
        _packed(task_id=TASK, data="x", details={"a": 2**64}),
        _packed(task_id=TASK, data="x", details={"\ud800": 2**64}),
        _packed(task_id=TASK, data="x", details={"a": 1}).replace(b'"a": 1', b'"a": 1e999'),
        _packed(task_id=TASK, data="x", error_details={"code": "\x00", "user_message": ""}),
        _packed(task_id=TASK, data="x" * RESULT_MAX),
        _packed(task_id=TASK, data="x", task_statuses=[{}] * strict.TOKENS_MAX),
    ],
)
def test_a_result_that_cannot_be_kept_is_an_error_of_its_task(body: bytes) -> None:
    task_id, made = read_result(body)
    result = message.unpack_result(made)
    assert task_id == result.task_id == TASK and result.error_code == "RESULT_UNREADABLE"
    assert "cannot be taken" in result.data and len(made) < 2000
    result.data.encode()


@pytest.mark.parametrize("task_id", ["", "x", "\ud800", TASK + "\x00", TASK.upper() + "x", 5, None])
def test_a_result_of_no_task_is_none(task_id: object) -> None:
    with pytest.raises(WireError):
        read_result(_packed(task_id=task_id, data="x"))
    with pytest.raises(WireError):
        read_result(_packed(task_id=task_id, data="x" * RESULT_MAX))
