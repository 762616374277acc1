"""The start request's decoder: total, strict, and honest about what it refuses."""

from __future__ import annotations

import json
import uuid
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mepd.errors import RequestError, WireError
from mepd.model import StartRequest
from mepd.wire import start_request
from tests.figures import figure

MEP, UEP, PERSON = (str(uuid.UUID(int=n)) for n in (1, 2, 3))
NOW = 1_750_000_000


def good_creds() -> dict[str, Any]:
    publish = {"exchange": "heartbeats", "routing_key": f"{UEP}.heartbeat"}
    url = "amqp://u:p@broker:5672/"
    return {
        "endpoint_id": UEP,
        "task_queue_info": {"connection_url": url, "queue": f"{UEP}.tasks"},
        "result_queue_info": {
            "connection_url": url,
            "queue": "results",
            "exchange": "results",
            "queue_publish_kwargs": publish,
        },
        "heartbeat_queue_info": {
            "connection_url": url,
            "queue": "heartbeats",
            "queue_publish_kwargs": publish,
        },
    }


def good_message() -> dict[str, Any]:
    return {
        "command": "cmd_start_endpoint",
        "args": [],
        "kwargs": {
            "name": f"uep.{MEP}.{UEP}",
            "amqp_creds": good_creds(),
            "user_opts": {"endpoint_setup": "true"},
            "user_runtime": {"python_version": "3.11.2"},
        },
        "globus_effective_identity": PERSON,
        "globus_username": "mickey97@example.com",
        "globus_identity_set": [
            {"sub": PERSON, "id": PERSON, "username": "mickey97@example.com", "email": None}
        ],
    }


def decode(
    message: Any, timestamp: Any = NOW, content_type: Any = "application/json"
) -> StartRequest:
    body = message if isinstance(message, bytes) else json.dumps(message).encode()
    return start_request.decode(body, content_type, timestamp, NOW)


def change(*path: str | int, to: Any) -> dict[str, Any]:
    """The good message with one value replaced."""
    message = good_message()
    node: Any = message
    for key in path[:-1]:
        node = node[key]
    node[path[-1]] = to
    return message


def test_good_message_is_read() -> None:
    request = decode(good_message())
    assert (request.mep_id, request.uep_id) == (MEP, UEP)
    assert request.username == "mickey97@example.com"
    assert request.user_opts == {"endpoint_setup": "true"}
    assert "u:p@" not in repr(request)


def test_inverse_for_the_socketpair() -> None:
    request = decode(good_message())
    travelled = json.loads(json.dumps(start_request.to_json(request)))
    assert start_request.from_json(travelled) == request


def test_queue_of_another_endpoint() -> None:
    body = json.dumps(good_message()).encode()
    with pytest.raises(RequestError, match="another endpoint"):
        start_request.decode(body, "application/json", NOW, NOW, UEP)


def nested(depth: int) -> list[Any]:
    value: list[Any] = []
    for _ in range(depth):
        value = [value]
    return value


WRONG: dict[str, tuple[Any, str]] = {
    "no JSON": (b"start, please", "not JSON"),
    "empty": (b"", "not JSON"),
    "binary": (bytes(range(256)) * 16, "not"),
    "not UTF-8": (b'{"command": "\xff"}', "UTF-8"),
    "UTF-16": (json.dumps({"a": 1}).encode("utf-16"), "unknown command"),
    "10 MB": (b'{"command": "' + b"x" * 10_000_000 + b'"}', "exceeds"),
    "depth 200,000, lists": (b"[" * 200_000, "deep"),
    "depth 200,000, objects": (b'{"a":' * 200_000 + b"1" + b"}" * 200_000, "deep"),
    "a list": (b"[]", "no object"),
    "a number": (b"1", "no object"),
    "null": (b"null", "no object"),
    "NaN": (b'{"command": NaN}', "unknown command"),
    "an integer of 5,000 digits": (b'{"command": ' + b"9" * 5000 + b"}", "not JSON"),
    "command null": (change("command", to=None), "command"),
    "command of another kind": (change("command", to="cmd_stop_endpoint"), "command"),
    "dunder command": (change("command", to="__class__"), "command"),
    "command a list": (change("command", to=["cmd_start_endpoint"]), "command"),
    "args": (change("args", to=["x"]), "args"),
    "args an object": (change("args", to={"a": 1}), "args"),
    "kwargs null": (change("kwargs", to=None), "kwargs"),
    "kwargs a list": (change("kwargs", to=[]), "kwargs"),
    "kwargs text": (change("kwargs", to="name"), "kwargs"),
    "name null": (change("kwargs", "name", to=None), "name"),
    "name of a path": (change("kwargs", "name", to="../../etc"), "name"),
    "name with a newline": (change("kwargs", "name", to=f"uep.{MEP}.{UEP}\n"), "name"),
    "name in capitals": (change("kwargs", "name", to=f"uep.{MEP}.{'A' * 36}"), "name"),
    "no credentials": (change("kwargs", "amqp_creds", to=None), "amqp_creds"),
    "other credentials": (change("kwargs", "amqp_creds", "endpoint_id", to=MEP), "not match"),
    "credentials 900 deep": (change("kwargs", "amqp_creds", "x", to=nested(900)), "deep"),
    "no task queue": (change("kwargs", "amqp_creds", "task_queue_info", to={}), "task_queue_info"),
    "user_opts a list": (change("kwargs", "user_opts", to=["a"]), "user_opts"),
    "user_opts too large": (change("kwargs", "user_opts", to={"a": "x" * 70_000}), "user_opts"),
    "user_opts integer": (change("kwargs", "user_opts", to={"a": {"b": 2**63}}), "user_opts.a.b"),
    "effective identity null": (change("globus_effective_identity", to=None), "effective"),
    "effective identity no UUID": (change("globus_effective_identity", to="root"), "UUID"),
    "username too long": (change("globus_username", to="x" * 4097), "username.*longer than 4096"),
    "username a number": (change("globus_username", to=7), "username"),
    "no identity": (change("globus_identity_set", to=[]), "no identity"),
    "identity set null": (change("globus_identity_set", to=None), "identity_set"),
    "identity a text": (change("globus_identity_set", to=["root"]), r"identity_set\[0\]"),
    "identity infinite": (
        json.dumps(change("globus_identity_set", 0, "x", to=7)).replace(": 7", ": 1e999").encode(),
        "finite",
    ),
    "identity nested": (change("globus_identity_set", 0, "email", to={"a": 1}), "email"),
    "a long URL": (
        change("kwargs", "amqp_creds", "heartbeat_queue_info", "connection_url", to="x" * 4097),
        "heartbeat_queue_info.connection_url is too long",
    ),
    "300 identities": (change("globus_identity_set", to=[{"sub": PERSON}] * 300), "more than"),
}


@pytest.mark.parametrize("case", WRONG)
def test_A4_malformed_messages(case: str) -> None:
    message, told = WRONG[case]
    with pytest.raises(RequestError, match=told) as caught:
        decode(message)
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize("missing", ["command", "kwargs", "globus_username", "globus_identity_set"])
def test_A4_missing_field(missing: str) -> None:
    message = good_message()
    del message[missing]
    with pytest.raises(RequestError):
        decode(message)


@pytest.mark.parametrize(
    "timestamp",
    [0, -1, 2**63, NOW * 1000, NOW - 181, NOW + 181, None, "now", 1.5, True, [NOW]],
    ids=repr,
)
def test_A4_timestamps(timestamp: Any) -> None:
    with pytest.raises(RequestError) as caught:
        decode(good_message(), timestamp)
    assert caught.value.amqp_creds == good_creds()


def test_skew_within_the_limit() -> None:
    for timestamp in (NOW - 180, NOW, NOW + 180):
        assert decode(good_message(), timestamp).timestamp == timestamp


def test_skew_is_told_in_full() -> None:
    with pytest.raises(RequestError) as caught:
        decode(good_message(), NOW - 1000)
    assert str(caught.value) == (
        "Ignoring command from server\n"
        "Command too old or skew between system clocks is too large."
        f"\n  Command timestamp:  {NOW - 1000}\n  Endpoint timestamp: {NOW}"
    )


@pytest.mark.parametrize("content_type", [None, "", "text/plain", "application/python-pickle", 7])
def test_A4_content_type(content_type: Any) -> None:
    with pytest.raises(RequestError, match="content type"):
        decode(good_message(), content_type=content_type)


def test_A4_old_message_with_broken_kwargs() -> None:
    """What killed the peer's manager: an old timestamp and ``kwargs: null``."""
    with pytest.raises(RequestError) as caught:
        decode(change("kwargs", to=None), NOW - 10_000)
    assert caught.value.amqp_creds is None


def test_texts_of_errors_hold_no_credentials() -> None:
    for message, _ in WRONG.values():
        with pytest.raises(RequestError) as caught:
            decode(message)
        assert "u:p@" not in str(caught.value)


ANY_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)
PATHS = [
    ("command",),
    ("args",),
    ("kwargs",),
    ("kwargs", "name"),
    ("kwargs", "amqp_creds"),
    ("kwargs", "amqp_creds", "endpoint_id"),
    ("kwargs", "amqp_creds", "heartbeat_queue_info"),
    ("kwargs", "amqp_creds", "heartbeat_queue_info", "queue_publish_kwargs"),
    ("kwargs", "amqp_creds", "heartbeat_queue_info", "connection_url"),
    ("kwargs", "user_opts"),
    ("kwargs", "user_runtime"),
    ("globus_effective_identity",),
    ("globus_username",),
    ("globus_identity_set",),
    ("globus_identity_set", 0),
    ("globus_identity_set", 0, "email"),
]


def outcome(body: bytes, content_type: Any, timestamp: Any) -> StartRequest | RequestError:
    """Either of the two; any other exception fails the test that calls."""
    try:
        return start_request.decode(body, content_type, timestamp, NOW)
    except RequestError as e:
        return e


@pytest.mark.figures
@settings(max_examples=figure(300, 40_000), deadline=None)
@given(st.binary(max_size=200), ANY_JSON, st.integers() | ANY_JSON)
def test_total_on_any_bytes(body: bytes, content_type: Any, timestamp: Any) -> None:
    assert isinstance(outcome(body, content_type, timestamp), RequestError)


@pytest.mark.figures
@settings(max_examples=figure(600, 60_000), deadline=None)
@given(st.sampled_from(PATHS), ANY_JSON, st.sampled_from([NOW, 0]))
def test_total_on_any_value_anywhere(path: tuple[str | int, ...], value: Any, when: int) -> None:
    found = outcome(json.dumps(change(*path, to=value)).encode(), "application/json", when)
    if isinstance(found, StartRequest):
        assert when == NOW
        again = start_request.from_json(json.loads(json.dumps(start_request.to_json(found))))
        assert again == found


@pytest.mark.figures
@settings(max_examples=figure(200, 50_000), deadline=None)
@given(
    ANY_JSON.filter(lambda v: isinstance(v, dict))
    | st.fixed_dictionaries({"timestamp": st.integers()})
)
def test_total_on_the_masters_side(obj: Any) -> None:
    with pytest.raises(WireError):
        start_request.from_json(obj)
