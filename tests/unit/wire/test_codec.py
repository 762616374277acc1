"""Messages between processes: exactly the declared fields, nothing coerced."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mepd.errors import WireError
from mepd.wire import codec, worker

GOOD: list[Any] = [
    worker.Ready(),
    worker.Ping(),
    worker.Pong(),
    worker.Stop(),
    worker.ServeEndpoint("debug", None, "http://localhost", {"multi_user": True}, 30.0, 443),
    worker.DrainEndpoint("debug"),
    worker.DropEndpoint("debug"),
    worker.Settle("a-1:1:debug"),
    worker.SendNotice("1", "debug", "no", {"endpoint_id": "x"}),
    worker.EndpointRegistered("debug", "id"),
    worker.OwnIdentities("debug", ["id"]),
    worker.EndpointOnline("debug", False, "gone"),
    worker.RegistrationFailed("debug", "no", True),
    worker.StartRequested("a-1:1:debug", "debug", {}),
    worker.RequestRefused("debug", "no"),
    worker.NoticeSent("1"),
    worker.NoticeDone("1", True),
    worker.Changed(["/etc/mepd/mepd.conf"]),
    worker.Validate("1", "debug", {"config.yaml": ""}),
    worker.Validated("1"),
]
ALL = tuple(type(m) for m in GOOD)


@pytest.mark.parametrize("message", GOOD, ids=lambda m: type(m).__name__)
def test_there_and_back(message: Any) -> None:
    assert codec.decode(codec.encode(message), ALL) == message


def test_every_message_is_tried_here() -> None:
    sets = (worker.TO_CONSUMER, worker.FROM_CONSUMER, worker.TO_WATCHER, worker.FROM_WATCHER)
    assert {kind for group in sets for kind in group} == set(ALL)


def test_a_kind_of_the_other_direction_is_refused() -> None:
    with pytest.raises(WireError, match="unknown kind"):
        codec.decode(codec.encode(worker.Stop()), worker.FROM_CONSUMER)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("online", 1),
        ("online", "true"),
        ("online", None),
        ("name", 7),
        ("name", None),
        ("reason", []),
        ("user", "root"),
        ("__class__", "x"),
    ],
)
def test_wrong_or_unknown_fields(field: str, value: Any) -> None:
    obj = {**codec.encode(worker.EndpointOnline("debug", True)), field: value}
    with pytest.raises(WireError, match="EndpointOnline"):
        codec.decode(obj, ALL)


def test_missing_field() -> None:
    with pytest.raises(WireError, match="'token' is missing"):
        codec.decode({"kind": "Settle"}, ALL)


@pytest.mark.parametrize(
    ("cls", "field", "value"),
    [
        (worker.Changed, "paths", ["a", 1]),
        (worker.Changed, "paths", "a"),
        (worker.Validate, "files", {"a": 1}),
        (worker.Validate, "files", ["a"]),
    ],
)
def test_items_of_containers_are_checked(cls: type, field: str, value: Any) -> None:
    message = next(m for m in GOOD if type(m) is cls)
    with pytest.raises(WireError, match="wrong type"):
        codec.decode({**codec.encode(message), field: value}, ALL)


def test_an_integer_is_good_for_a_float_but_a_bool_is_not() -> None:
    obj = codec.encode(worker.ServeEndpoint("d", None, "u", {}, 30.0))
    assert codec.decode({**obj, "heartbeat_period": 5}, ALL).heartbeat_period == 5
    with pytest.raises(WireError):
        codec.decode({**obj, "heartbeat_period": True}, ALL)


@pytest.mark.parametrize("value", [float("inf"), float("-inf"), float("nan"), 10**400, -1e300])
def test_numbers_beyond_all_use(value: float) -> None:
    obj = codec.encode(worker.ServeEndpoint("d", None, "u", {}, 30.0))
    with pytest.raises(WireError, match="wrong type"):
        codec.decode({**obj, "heartbeat_period": value}, ALL)
    with pytest.raises(WireError, match="wrong type"):
        codec.decode({**obj, "amqp_port": 2**63}, ALL)


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(),
        lambda i: st.lists(i, max_size=3)
        | st.dictionaries(st.sampled_from(["kind", "token", "name", "paths"]) | st.text(), i),
        max_leaves=8,
    )
    | st.fixed_dictionaries(
        {"kind": st.sampled_from([c.__name__ for c in ALL])},
        optional={f.name: st.none() | st.text() for c in ALL for f in dataclasses.fields(c)},
    )
)
def test_decode_is_total(obj: Any) -> None:
    try:
        assert type(codec.decode(obj, ALL)) in ALL
    except WireError:
        pass
