from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pika import exceptions
from pika.adapters.utils import connection_workflow as workflow

from mepd.consumer.broker import BrokerAddress, describe, parameters, parse_url
from mepd.consumer.names import is_short_string, is_uuid
from mepd.errors import WireError


def test_every_part_of_a_url() -> None:
    assert parse_url("amqps://a%40b:p%2F%3A@broker.example:5999/v%2Fh") == BrokerAddress(
        True, "broker.example", 5999, "v/h", "a@b", "p/:"
    )


def test_defaults() -> None:
    assert parse_url("amqp://Broker") == BrokerAddress(False, "broker", 5672, "/", "guest", "guest")
    assert parse_url("amqps://broker/").port == 5671


def test_configured_port_overrides() -> None:
    assert parse_url("amqps://broker:5671/", 443).place == ("broker", 443)


def test_query_of_a_url_changes_nothing() -> None:
    plain = parse_url("amqp://u:p@broker/v")
    assert parse_url("amqp://u:p@broker/v?heartbeat=0&ssl_options=%7B%7D") == plain


@pytest.mark.parametrize(
    "url",
    [
        "",
        "broker",
        "http://broker/",
        "amqp://",
        "amqp://:5672/",
        "amqp://broker:99999/",
        "amqp://broker:x/",
        "amqp://[::1/",
        "amqp://u:\ud800@broker/",
        "amqp://broker/" + "v" * 256,
    ],
)
def test_unusable_urls(url: str) -> None:
    with pytest.raises(WireError, match="connection_url"):
        parse_url(url)


@given(st.text(max_size=60) | st.text(max_size=40).map("amqp://u:canary@".__add__))
def test_total_and_silent_about_passwords(url: str) -> None:
    try:
        assert "canary" not in repr(parse_url(url)).replace("canary@", "")
    except WireError as e:
        assert "canary" not in str(e)


def test_parameters_of_pika() -> None:
    made = parameters(parse_url("amqps://u:p@broker/v"), 5, 8.0)
    assert (made.host, made.port, made.virtual_host) == ("broker", 5671, "v")
    assert (made.heartbeat, made.blocked_connection_timeout) == (5, 8.0)
    assert made.ssl_options.server_hostname == "broker"


def test_short_strings() -> None:
    assert is_short_string("\u00e9" * 127)
    assert not is_short_string("\u00e9" * 128)
    assert not is_short_string("\ud800")


def test_uuids() -> None:
    assert is_uuid("00000000-0000-0000-0000-000000000001")
    assert not is_uuid("00000000-0000-0000-0000-000000000001\n")
    assert not is_uuid("../x")


def test_reasons_are_dug_out() -> None:
    error = ConnectionRefusedError(111, "Connection refused")
    refused = workflow.AMQPConnectorSocketConnectError(error)
    failed = workflow.AMQPConnectionWorkflowFailed([refused, refused])
    assert describe(exceptions.AMQPConnectionError(failed)) == "Connection refused"
    handshake = workflow.AMQPConnectorAMQPHandshakeError(
        exceptions.ProbableAuthenticationError(exceptions.ConnectionClosedByBroker(403, "LOGIN"))
    )
    assert "credentials" in describe(workflow.AMQPConnectionWorkflowFailed([handshake]))
    assert describe(exceptions.ChannelClosedByBroker(404, "NOT_FOUND")) == "404 NOT_FOUND"
    assert len(describe(ValueError("x" * 1000))) == 300
