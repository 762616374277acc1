"""Frames, backoff, the stdin document, and the engines' decisions."""

from __future__ import annotations

import io
import json
import os
import signal
import sys
import types
import uuid
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mepd.errors import ConfigError, WireError
from mepd.uep import backoff, failures, guard
from mepd.uep.document import parse
from mepd.uep.engines import frames
from mepd.uep.engines.pool import BACKOFF_MAX, restart_delay, workers_wanted
from mepd.uep.link import cause
from mepd.uep.main import user_folder
from mepd.uep.refusal import error_state
from mepd.uep.taskfeed import ack_calls
from mepd.wire.message import unpack_result

SECRET = "amqp://user:s3cret@broker/"


def document(**changes: Any) -> dict[str, Any]:
    publish = {"exchange": "x", "routing_key": "k"}
    info = {"connection_url": SECRET, "queue": "q", "queue_publish_kwargs": publish}
    creds = {
        "endpoint_id": str(uuid.uuid4()),
        "task_queue_info": info,
        "result_queue_info": info,
        "heartbeat_queue_info": info,
    }
    return {"amqp_creds": creds, "config": "a: 1", "ep_info": {}, "notify_fd": 5, **changes}


def test_document() -> None:
    found = parse(json.dumps(document(allowed_functions=["ABC"])).encode())
    assert found.notify_fd == 5 and found.allowed_functions == ("abc",)
    assert "s3cret" not in repr(found)


def test_document_of_the_peer_without_notify_fd() -> None:
    body = document(mem_fd=3, enckey="k3y", audit_fd=9)
    del body["notify_fd"]
    found = parse(json.dumps(body).encode())
    assert found.notify_fd is None and (found.mem_fd, found.enckey) == (3, "k3y")
    assert "k3y" not in repr(found)


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"config": None}, "config"),
        ({"amqp_creds": []}, "amqp_creds"),
        ({"ep_info": [1]}, "ep_info"),
        ({"notify_fd": "5"}, "notify_fd"),
        ({"notify_fd": 1}, "notify_fd"),
        ({"mem_fd": "3", "enckey": "k"}, "mem_fd"),
        ({"mem_fd": 3}, "enckey"),
        ({"audit_fd": 2**31}, "audit_fd"),
        ({"ep_info": {"a": 10**400}}, "ep_info.a"),
        ({"mem_fd": 3, "enckey": 3}, "enckey"),
        ({"allowed_functions": "x"}, "allowed_functions"),
    ],
)
def test_document_errors_name_the_field(changes: dict[str, Any], word: str) -> None:
    with pytest.raises(WireError, match=word):
        parse(json.dumps(document(**changes)).encode())


@pytest.mark.parametrize(
    ("queue", "part"),
    [
        ("task_queue_info", {"queue": "q" * 256}),
        ("task_queue_info", {"queue": "\ud800"}),
        *(
            ("result_queue_info", {"queue_publish_kwargs": publish})
            for publish in (
                {"exchange": 7},
                {"exchange": "é" * 128},
                {"routing_key": "\ud800"},
                {"properties": []},
                {"properties": {"no_such": 1}},
                {"properties": {"message_id": "ours"}},
                {"properties": {"delivery_mode": "2"}},
                {"properties": {"delivery_mode": 256}},
                {"properties": {"headers": {"a": 1.5}}},
                {"properties": {"expiration": 5}},
            )
        ),
    ],
)
def test_what_no_message_can_be_sent_with_is_refused(queue: str, part: dict[str, Any]) -> None:
    """Else it would end the program with its first heartbeat or result, or at a refresh."""
    body = document()
    body["amqp_creds"][queue] = {**body["amqp_creds"][queue], **part}
    with pytest.raises(WireError, match=queue):
        parse(json.dumps(body).encode())


def test_what_messages_are_sent_with_is_taken() -> None:
    body = document()
    properties = {"delivery_mode": 2, "content_type": "application/json", "headers": {"a": "b"}}
    publish = {"exchange": None, "routing_key": "k", "properties": properties}
    part = {"queue_publish_kwargs": publish}
    body["amqp_creds"]["result_queue_info"] = {**body["amqp_creds"]["result_queue_info"], **part}
    found = parse(json.dumps(body).encode())
    assert found.amqp_creds["result_queue_info"]["queue_publish_kwargs"] == publish


@pytest.mark.parametrize("queue", ["task_queue_info", "result_queue_info", "heartbeat_queue_info"])
@pytest.mark.parametrize("part", [None, {}, {"connection_url": SECRET}, {"connection_url": 7}])
def test_document_errors_show_no_secret(queue: str, part: Any) -> None:
    body = document()
    body["amqp_creds"][queue] = part
    with pytest.raises(WireError, match=queue) as error:
        parse(json.dumps(body).encode())
    assert "s3cret" not in str(error.value)


@pytest.mark.parametrize("data", [b"", b"[]", b"\xff", b"{", b"[" * 100_000])
def test_document_that_is_none(data: bytes) -> None:
    with pytest.raises(WireError):
        parse(data)


@given(st.lists(st.tuples(st.sampled_from(frames.KINDS), st.binary(max_size=300))), st.data())
def test_frames_survive_any_split(items: list[tuple[bytes, bytes]], data: st.DataObject) -> None:
    sent = [frames.Frame(kind, {"n": n}, body) for n, (kind, body) in enumerate(items)]
    stream = b"".join(map(frames.pack, sent))
    buffer, found, at = frames.FrameBuffer(), [], 0
    while at < len(stream):
        step = data.draw(st.integers(1, len(stream) - at))
        found += list(buffer.feed(stream[at : at + step]))
        at += step
    assert found == sent


@pytest.mark.parametrize(
    "stream",
    [
        b"X" + bytes(8),
        b"T" + b"\xff" * 8,
        b"T\0\0\0\1\0\0\0\0{",
        b"T\0\0\0\2\0\0\0\0[]",
        b"T\0\0\0\0\0\0\0\0",
    ],
)
def test_bad_frames(stream: bytes) -> None:
    with pytest.raises(WireError):
        list(frames.FrameBuffer().feed(stream))


def test_backoff_grows_to_thirty_seconds() -> None:
    delays = [backoff.delay(n) for n in range(40)]
    assert delays[0] == 0.0 and delays == sorted(delays) and delays[-1] == 30.0
    assert all(0 < backoff.jittered(n) <= 30.0 for n in range(1, 40))


def test_restart_delay() -> None:
    delays = [restart_delay(n) for n in range(40)]
    assert delays[0] == 0.0 and delays == sorted(delays) and delays[-1] == BACKOFF_MAX


def test_workers_that_die_for_a_day_are_started_as_before() -> None:
    """A delay that is no number any more would end the user endpoint."""
    assert {restart_delay(n) for n in range(40, 24 * 3600 // 30)} == {BACKOFF_MAX}


@pytest.mark.parametrize(
    ("waiting", "starting", "alive", "most", "wanted"),
    [
        (0, 0, 0, 4, 1),
        (0, 0, 1, 4, 0),
        (3, 0, 1, 4, 3),
        (9, 0, 1, 4, 3),
        (3, 2, 2, 4, 1),
        (1, 1, 1, 4, 0),
        (5, 0, 4, 4, 0),
    ],
)
def test_workers_wanted(waiting: int, starting: int, alive: int, most: int, wanted: int) -> None:
    assert workers_wanted(waiting, starting, alive, most) == wanted


@pytest.mark.parametrize(
    ("status", "words"),
    [
        (3, "exited with code 3"),
        (-signal.SIGSEGV, "SIGSEGV"),
        (-signal.SIGKILL, "SIGKILL, perhaps"),
    ],
)
def test_lost_worker_says_how(status: int, words: str) -> None:
    assert words in failures.lost_worker(failures.exit_text(status))


def test_error_result() -> None:
    task = str(uuid.uuid4())
    result = unpack_result(failures.error_result(task, "CODE", "text", {"endpoint_id": "e"}))
    assert (result.task_id, result.error_code, result.data) == (task, "CODE", "text")
    assert result.details == {"endpoint_id": "e"} and len(result.task_statuses) == 1


def test_error_state_ends_the_endpoint() -> None:
    state = error_state("bad engine", {"posix_ppid": 7})
    assert state["error"] == "bad engine" and state["heartbeat_period"] == 0
    assert state["active"] is False and state["posix_ppid"] == 7


def test_cause_never_shows_an_unknown_errors_text() -> None:
    assert cause(ValueError(SECRET)) == "ValueError"


def test_an_account_without_a_home_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GLOBUS_COMPUTE_USER_DIR", raising=False)
    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.setattr(os, "getuid", lambda: 2**31 - 2)
    with pytest.raises(ConfigError, match="HOME is not set"):
        user_folder("uep.a.b")


@pytest.mark.parametrize("name", ["", "../x", "a/b", ".hidden", "x" * 129])
def test_bad_endpoint_names(name: str) -> None:
    with pytest.raises(ConfigError):
        user_folder(name)


@pytest.mark.parametrize(
    ("unacked", "tags", "calls", "left"),
    [
        ([1], [1], [(1, False)], []),
        ([1, 2, 3], [1, 2, 3], [(3, True)], []),
        ([1, 2, 3, 4], [4, 1, 2], [(2, True), (4, False)], [3]),
        ([1, 2, 3], [3, 2], [(3, False), (2, False)], [1]),
        ([5], [4], [], [5]),
    ],
)
def test_ack_calls(
    unacked: list[int], tags: list[int], calls: list[tuple[int, bool]], left: list[int]
) -> None:
    held = dict.fromkeys(unacked)
    assert ack_calls(held, tags) == calls and list(held) == left


SCRIPT = b"24\nrm -rf /scratch/data/old"


@pytest.mark.parametrize("size", range(len(SCRIPT) + 1))
def test_a_script_of_which_a_part_came_is_not_run(
    monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    """Its UEP died as it wrote it; this one would remove more than was meant."""
    monkeypatch.setattr(sys, "stdin", types.SimpleNamespace(buffer=io.BytesIO(SCRIPT[:size])))
    if size == len(SCRIPT):
        assert guard._read_script() == SCRIPT[3:]
    else:
        with pytest.raises(WireError):
            guard._read_script()
