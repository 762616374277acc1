"""What a process may be told by one with fewer rights: broken frames end in WireError only."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from typing import Any

import pytest

from mepd.errors import WireError
from mepd.wire import activity, codec, control, framing, stages, worker
from tests.figures import figure

Decode = Callable[[Any], Any]
GOOD: dict[str, tuple[Decode, list[Any]]] = {
    "consumer": (
        lambda obj: codec.decode(obj, worker.FROM_CONSUMER),
        [
            codec.encode(worker.StartRequested("a-1:1:debug", "debug", {"name": "x"})),
            codec.encode(worker.OwnIdentities("debug", ["id"])),
            codec.encode(worker.RegistrationFailed("debug", "no", True)),
            codec.encode(worker.NoticeSent("1")),
            codec.encode(worker.NoticeDone("1", True)),
        ],
    ),
    "watcher": (
        lambda obj: codec.decode(obj, worker.FROM_WATCHER),
        [codec.encode(worker.Changed(["/etc/x"])), codec.encode(worker.Validated("1"))],
    ),
    "launch child": (
        lambda obj: codec.decode(obj, stages.FROM_LAUNCH),
        [
            codec.encode(stages.Mapped("harper", 1000, 1000, "id")),
            codec.encode(stages.Failed("HOST_AUTH", 71, "reason", "public")),
            codec.encode(stages.SessionOpened(77)),
        ],
    ),
    "user endpoint": (
        lambda obj: codec.decode(obj, activity.FROM_UEP),
        [codec.encode(activity.ActivityReport(1, 0, 1, 12.5, 10, 5760, 30.0, False))],
    ),
    "control socket": (control.parse_request, [control.request("kill", {"targets": ["a"]})]),
}
JUNK = [
    None, True, False, -1, 0, 2**63, 1e308, "", "\x00", "\ud800", [], {}, [[]], {"kind": "Stop"},
    "x" * 5000,
]  # fmt: skip


def mutate_value(chance: random.Random, obj: dict[str, Any]) -> Any:
    """The object with a field changed, dropped, added or doubled inside another."""
    changed = dict(obj)
    key = chance.choice(list(obj))
    match chance.randrange(5):
        case 0:
            changed[key] = chance.choice(JUNK)
        case 1:
            del changed[key]
        case 2:
            changed[chance.choice(["x", "__class__", "kind ", "args"])] = chance.choice(JUNK)
        case 3:
            changed[key] = changed
            changed = {**changed, key: dict(obj)}
        case _:
            return chance.choice([*JUNK, [obj], str(obj)])
    return changed


def mutate_bytes(chance: random.Random, frame: bytes) -> bytes:
    """The frame with bytes changed, cut off, or put in."""
    data = bytearray(frame)
    for _ in range(chance.randint(1, 4)):
        at = chance.randrange(len(data))
        match chance.randrange(4):
            case 0:
                data[at] = chance.randrange(256)
            case 1:
                del data[at:]
                data += b"\x00"
            case 2:
                data[at:at] = chance.randbytes(chance.randint(1, 8))
            case _:
                data[at] ^= 1 << chance.randrange(8)
    return bytes(data)


def hostile_frame(chance: random.Random, messages: list[Any]) -> bytes:
    obj = chance.choice(messages)
    if chance.random() < 0.6:
        body = json.dumps(mutate_value(chance, obj)).encode()
        frame = framing.HEADER.pack(len(body)) + body
        return frame if chance.random() < 0.8 else mutate_bytes(chance, frame)
    return mutate_bytes(chance, framing.encode_frame(obj))


@pytest.mark.figures
@pytest.mark.parametrize("border", GOOD)
def test_a_border_is_total(border: str) -> None:
    decode, messages = GOOD[border]
    for message in messages:
        decode(message)
    chance = random.Random(border)
    refused = 0
    for _ in range(figure(1500, 50_000)):
        frame = hostile_frame(chance, messages)
        try:
            for obj in framing.FrameReader(1 << 20).feed(frame):
                decode(obj)
        except WireError as e:
            refused += 1
            assert len(str(e)) < 1000 and "\n" not in str(e)
    assert refused > 500
