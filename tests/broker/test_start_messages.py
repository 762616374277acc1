"""A4: start requests with one thing wrong, everywhere and in every way, at the whole daemon."""

from __future__ import annotations

import copy
import json
import random
import time
import uuid
from collections.abc import Iterator
from typing import Any

import pytest
from mepd_fixtures import Mepd

from tests.conftest import wait_for
from tests.figures import FULL, figure

Path = tuple[Any, ...]
GONE = object()
DEEP = json.loads("[" * 900 + "]" * 900)
HOSTILE: tuple[Any, ...] = (
    GONE, None, True, False, 0, -1, 2**63, 2**64, -(2**70), 10**300, 1.5, 1e308, float("nan"),
    float("-inf"), "", " ", "a\nb\r\x1b[31m\x07", "\x00", "\ud800", "\u2028\u202e", "x" * 5000,
    "../../../etc/passwd", "amqp://u:canary@b@127.0.0.1:1/", "amqp://:canary%40@127.0.0.1:1",
    "%(name)s {0} {{7*7}} ${HOME} $(id)", "root", [], {}, [None], [[[]]], {"": None}, DEEP,
    {"__class__": {"password": "canary"}}, {"k" * 100_000: [0] * 1000}, ["x"] * 300,
)  # fmt: skip


def paths(value: Any, path: Path = ()) -> Iterator[Path]:
    """Each place of a JSON value, the whole of it first."""
    yield path
    if isinstance(value, (dict, list)):
        for key in value if isinstance(value, dict) else range(len(value)):
            yield from paths(value[key], (*path, key))


def spoiled(message: Any, path: Path, value: Any) -> bytes:
    """The message with ``value`` in the place of what it has there."""
    if not path:
        return b"" if value is GONE else json.dumps(value).encode()
    message = copy.deepcopy(message)
    node = message
    for key in path[:-1]:
        node = node[key]
    if value is GONE:
        del node[path[-1]]
    else:
        node[path[-1]] = value
    return json.dumps(message).encode()


def good(mepd: Mepd, uep_id: str) -> dict[str, Any]:
    """A request that mepd takes, with something in each of its parts."""
    message = mepd.request()
    message["kwargs"] |= {
        "name": f"uep.{mepd.service.endpoint_id}.{uep_id}",
        "amqp_creds": mepd.service.creds(uep_id),
        "user_opts": {"a": "b", "nested": {"list": [1, "two"]}},
        "user_runtime": {"python_version": "3.11.2", "globus_sdk_version": "3"},
    }
    return message


def served(mepd: Mepd) -> None:
    """All that was sent is taken from the queue, and a good request starts."""
    last = good(mepd, str(uuid.uuid4()))
    mepd.service.publish(last)
    wait_for(lambda: last["kwargs"]["name"] in mepd.runs(), 60, "a good one to start")
    wait_for(lambda: mepd.service.kept() == 0, 60, "all to be settled")


def test_A4_large_requests_that_fail_are_answered(mepd: Mepd) -> None:
    """All at once, by the same worker: more than the master would owe to one that hangs."""
    gate, begun, mapper = (mepd.folder / name for name in ("gate", "begun", "mapper"))
    wait = f"until [ -e {gate} ]; do sleep 0.05; done"
    mapper.write_text(f"#!/bin/sh\nprintf x >>{begun}\n{wait}\n")
    mapper.chmod(0o755)
    mapping = {"DATA_TYPE": "external_identity_mapping#1.0.0", "command": [str(mapper)]}
    (mepd.folder / "endpoint/map.json").write_text(json.dumps([mapping]))
    mepd.start()
    consumer = wait_for(mepd.consumer, 20, "a consumer")
    requests = [mepd.request() for _ in range(20)]
    for request in requests:
        request["kwargs"]["amqp_creds"]["x"] = "y" * 3_800_000
    mepd.service.publish(*requests)
    wait_for(lambda: begun.exists() and len(begun.read_text()) == 20, 60, "all to begin")
    gate.touch()
    told: set[str] = set()

    def all_told() -> bool:
        told.update(r.endpoint_id for r in mepd.service.reports() if "error" in r.global_state)
        return len(told) == len(requests)

    wait_for(all_told, 60, "the notices")
    wait_for(lambda: mepd.service.kept() == 0, 30, "all to be settled")
    assert mepd.consumer() == consumer


@pytest.mark.figures
def test_A4_one_thing_wrong_anywhere(mepd: Mepd) -> None:
    """Nothing dies, nothing is left in the queue, the log stays plain and tells no secret."""
    mepd.let_ueps_live(2)
    mepd.start()
    message = good(mepd, str(uuid.uuid4()))
    places = list(paths(message))
    if not FULL:
        places = random.Random(time.time_ns()).sample(places, figure(6, 0))
    consumer = wait_for(mepd.consumer, 20, "a consumer")
    for path in places:
        mepd.service.publish(*(spoiled(message, path, value) for value in HOSTILE))
        served(mepd)
        assert mepd.consumer() == consumer, path
    lines = mepd.log().split("\n")
    words = ("canary", mepd.service.rabbit.password, "Traceback", "fault", "broke the protocol")
    assert not [line for line in lines if any(word in line for word in words)][:3]
    assert not [n for n in lines if not n.isprintable() or len(n.encode()) >= 4096][:3]
