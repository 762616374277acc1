"""E2: bounds on the values of a user's options, with the place of what is wrong."""

from __future__ import annotations

import json
import tracemalloc
import uuid
from typing import Any

import pytest

from mepd.errors import RequestError
from mepd.wire import jsonlimits, start_request

MEP, UEP, WHO = (str(uuid.uuid4()) for _ in range(3))
INFO = {
    "connection_url": "amqp://127.0.0.1",
    "queue_publish_kwargs": {"exchange": "e", "routing_key": "k"},
}
CREDS = {
    "endpoint_id": UEP,
    "task_queue_info": INFO,
    "result_queue_info": INFO,
    "heartbeat_queue_info": INFO,
}


def nested(depth: int) -> Any:
    value: Any = "x"
    for _ in range(depth):
        value = [value]
    return value


def body(options: str) -> bytes:
    """A start request with these options, as JSON text."""
    message = {
        "command": "cmd_start_endpoint",
        "args": [],
        "kwargs": {"name": f"uep.{MEP}.{UEP}", "amqp_creds": CREDS, "user_opts": "@@"},
        "globus_effective_identity": WHO,
        "globus_username": "u@example.org",
        "globus_identity_set": [{"id": WHO}],
    }
    return json.dumps(message).replace('"@@"', options).encode()


def decode(options: str) -> Any:
    return start_request.decode(body(options), "application/json", 100, 100.0, MEP).user_opts


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ('{"a": NaN}', "user_opts.a: not a finite number"),
        ('{"a": [{"b": -Infinity}]}', "user_opts.a[0].b: not a finite number"),
        ('{"a": {"b": 1e999}}', "user_opts.a.b: not a finite number"),
        ('{"a": [1, 9223372036854775808]}', "user_opts.a[1]: integer does not fit 64 bits"),
        (json.dumps({"deep": nested(33)}), "user_opts.deep[0]"),
        (json.dumps({"big": "x" * 66000}), "'user_opts' is larger than 65536 bytes"),
        (json.dumps({"many": [0] * 32_768}), "user_opts: more than 32768 values"),
        (json.dumps({"many": [{"a": 1e400}] * 20_000}), "many[19999].a: not a finite number"),
        ('{"many": [' + "[[[]]]," * 20_000 + "0]}", "user_opts: more than 32768 values"),
        ("[1]", "'user_opts' is no object"),
    ],
)
def test_E2_refused_with_the_path(options: str, word: str) -> None:
    with pytest.raises(RequestError) as caught:
        decode(options)
    assert word in str(caught.value)


@pytest.mark.parametrize(
    "options",
    [
        '{"a": 9223372036854775807}', '{"a": 1.5}', json.dumps({"d": nested(31)}), "{}", "null",
        json.dumps({"many": [0] * 21_000}),
    ],  # fmt: skip
)
def test_E2_what_fits_passes(options: str) -> None:
    assert decode(options) == (json.loads(options) or {})


@pytest.mark.parametrize("number", ["1e999", "NaN", "9223372036854775808"])
def test_E2_the_credentials_are_told_for_a_notice(number: str) -> None:
    with pytest.raises(RequestError) as caught:
        decode(f'{{"a": {number}}}')
    assert caught.value.amqp_creds == CREDS and "amqp" not in str(caught.value)


@pytest.mark.parametrize(
    ("where", "value", "word"),
    [
        ("amqp_creds", {**CREDS, "more": [0] * 1_000_000}, "amqp_creds: more than 4096 values"),
        ("amqp_creds", {**CREDS, "more": {"a": [2**64]}}, "amqp_creds.more.a[0]: integer"),
        ("amqp_creds", {**CREDS, "more": [[]] * 1_000_000}, "amqp_creds: more than 4096 values"),
        ("identities", [dict.fromkeys(map(str, range(200)), 0)] * 250, "more than 32768 values"),
    ],
)
def test_E2_a_message_of_many_values_is_soon_refused(where: str, value: Any, word: str) -> None:
    """Looking at each of a million values would keep the AMQP worker, and then the master,
    for seconds."""
    message = json.loads(body("{}"))
    if where == "identities":
        message["globus_identity_set"] = value
    else:
        message["kwargs"][where] = value
    with pytest.raises(RequestError) as caught:
        start_request.decode(json.dumps(message).encode(), "application/json", 100, 100.0, MEP)
    assert word in str(caught.value)


@pytest.mark.parametrize("below", [[1] * 1000, {str(n): n for n in range(1000)}])
def test_E2_a_long_key_costs_nothing_for_each_value_below_it(below: Any) -> None:
    """200 MB here, and terabytes for what fits into one message."""
    tracemalloc.start()
    try:
        jsonlimits.check({"k" * 200_000: below}, "body")
        assert tracemalloc.get_traced_memory()[1] < 10_000_000
    finally:
        tracemalloc.stop()
