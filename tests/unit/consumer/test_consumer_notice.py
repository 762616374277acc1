from __future__ import annotations

import json
import uuid
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mepd.consumer.broker import parse_url
from mepd.consumer.notice import TEXT_MAX, Letter, Notice, write
from mepd.errors import WireError
from mepd.wire.message import unpack_status

UEP = str(uuid.UUID(int=7))
OWN = parse_url("amqps://mep:secret@broker:5671/")


def creds(url: str = "amqps://uep:secret@broker/") -> dict[str, Any]:
    publish = {"exchange": "reports", "routing_key": "x.heartbeat"}
    info = {"connection_url": url, "queue": "q", "queue_publish_kwargs": publish}
    return {"endpoint_id": UEP, "heartbeat_queue_info": info}


def letter(amqp_creds: dict[str, Any], port: int | None = None) -> Letter:
    own = OWN if port is None else parse_url("amqps://mep:secret@broker/", port)
    return write(Notice("no such user", own, port, amqp_creds))


def test_a_letter() -> None:
    found = letter(creds())
    assert (found.exchange, found.routing_key) == ("reports", "x.heartbeat")
    assert (found.address.user, found.address.place) == ("uep", OWN.place)
    report = unpack_status(found.body)
    assert report.endpoint_id == UEP
    assert report.global_state == {"error": "no such user", "heartbeat_period": 3}


def test_configured_port_holds_for_the_letter_too() -> None:
    assert letter(creds("amqps://uep:p@broker:5671/"), 443).address.place == ("broker", 443)


def test_long_texts_are_cut() -> None:
    found = write(Notice("x" * 10_000, OWN, None, creds()))
    assert unpack_status(found.body).global_state["error"] == "x" * TEXT_MAX


@pytest.mark.parametrize(
    "url",
    [
        "amqps://u:p@elsewhere/",
        "amqps://u:p@broker:5672/",
        "amqp://u:p@broker:5671/",
        "amqps://u:p@broker:5671@elsewhere/",
        "amqps://u:p@elsewhere#broker:5671/",
    ],
)
def test_A8_another_broker_is_refused(url: str) -> None:
    with pytest.raises(WireError, match="another broker"):
        letter(creds(url))


def test_no_link_yet() -> None:
    with pytest.raises(WireError, match="no broker yet"):
        write(Notice("x", None, None, creds()))


ANY = st.recursive(
    st.none() | st.integers() | st.text(),
    lambda i: st.lists(i, max_size=2) | st.dictionaries(st.text(), i, max_size=2),
    max_leaves=5,
)


@given(
    st.sampled_from(["endpoint_id", "heartbeat_queue_info", "connection_url", "exchange"]), ANY
)
def test_total_on_any_credentials(field: str, value: Any) -> None:
    changed = json.loads(json.dumps(creds()))
    info = changed["heartbeat_queue_info"]
    holder = {
        "endpoint_id": changed,
        "heartbeat_queue_info": changed,
        "connection_url": info,
        "exchange": info["queue_publish_kwargs"],
    }[field]
    holder[field] = value
    try:
        assert letter(changed).address.place == OWN.place
    except WireError:
        pass
