"""What the broker itself refuses: each account can do what it needs, and nothing else."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import pika
import pytest
from gateway_fixtures import FakeMep, FakeUep, Site, User, poll, running_site, unique
from gateway_fixtures import payload as packed
from oddheaders import ODD_HEADERS, OddProperties
from pika.exceptions import AMQPError, ChannelClosedByBroker, ProbableAuthenticationError

from mepd.wire import message
from rabbit import server_script

from tests.conftest import lines_with, require


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    require(server_script() is not None, "rabbitmq-server")
    with running_site(start_timeout=10) as site:
        yield site


@pytest.fixture(scope="module")
def mep(site: Site) -> Iterator[FakeMep]:
    mep = FakeMep(User(site, unique("admin"))).online()
    yield mep
    mep.stop()


def double(x: int) -> int:
    return 2 * x


def submitted(user: User, mep: FakeMep, **more: Any) -> tuple[FakeUep, Any]:
    """The user's new user endpoint, and the answer of its first submission."""
    body = {"tasks": {user.register(double): [packed(1)]}, "create_queue": True, **more}
    answer = user.call("POST", f"/v3/endpoints/{mep.id}/submit", body)
    assert answer.status_code == 200, answer.text
    uep = next(u for u in mep.ueps if u.creds["endpoint_id"] == mep.requests[-1].uep_id)
    return uep, answer.json()


@pytest.fixture(scope="module")
def two(site: Site, mep: FakeMep) -> tuple[FakeUep, FakeUep, dict[str, Any], dict[str, Any]]:
    harper, jessie = User(site, unique("harper")), User(site, unique("jessie"))
    first, one = submitted(harper, mep)
    second, other = submitted(jessie, mep)
    sdk = harper.call("GET", "/v2/get_amqp_result_connection_url").json()
    return first, second, {**sdk, "own": one["task_group_id"]}, other


def refused(url: str, action: Any) -> str:
    """The broker's reason for refusing the action on a fresh channel."""
    connection = pika.BlockingConnection(pika.URLParameters(url))
    try:
        channel = connection.channel()
        channel.confirm_delivery()
        with pytest.raises(ChannelClosedByBroker) as raised:
            action(channel)
        return f"{raised.value.reply_code} {raised.value.reply_text}"
    finally:
        connection.close()


def publish(exchange: str, key: str, body: bytes = b"x") -> Any:
    return lambda channel: channel.basic_publish(exchange, key, body)


def consume(queue: str) -> Any:
    return lambda channel: channel.basic_consume(queue, lambda *_: None)


def test_F4_anothers_queue_is_refused(two: Any, mep: FakeMep) -> None:
    first, second, sdk, other = two
    url = first.creds["task_queue_info"]["connection_url"]
    prefix = sdk["queue_prefix"]
    forbidden = [
        second.creds["task_queue_info"]["queue"],
        mep.info["command_queue_info"]["queue"],
        prefix + other["task_group_id"],
        prefix + sdk["own"],  # an SDK's queue is not for the user endpoint either
        "mepd.results",
        "mepd.heartbeats",
    ]
    for queue in forbidden:
        assert refused(url, consume(queue)).startswith("403 ACCESS_REFUSED"), queue
        get = refused(url, lambda channel, queue=queue: channel.basic_get(queue))
        assert get.startswith("403 ACCESS_REFUSED"), queue
    for queue in forbidden[:3] + forbidden[4:]:
        assert refused(sdk["connection_url"], consume(queue)).startswith("403"), queue


def test_F4_nothing_is_published_as_another(two: Any, mep: FakeMep) -> None:
    first, second, sdk, _ = two
    url = first.creds["task_queue_info"]["connection_url"]
    mep_url = mep.info["command_queue_info"]["connection_url"]
    attempts = [
        (url, "mepd.results", second.id),
        (url, "mepd.heartbeats", second.id),
        (url, "mepd.heartbeats", mep.id),
        (url, "", mep.info["command_queue_info"]["queue"]),
        (url, "", second.creds["task_queue_info"]["queue"]),
        (url, "amq.topic", first.id),
        (mep_url, "mepd.heartbeats", first.id),
        (mep_url, "mepd.results", first.id),
        (mep_url, "", first.creds["task_queue_info"]["queue"]),
        (sdk["connection_url"], "mepd.results", first.id),
        (sdk["connection_url"], "", sdk["queue_prefix"] + sdk["own"]),
    ]
    for account, exchange, key in attempts:
        assert refused(account, publish(exchange, key)).startswith("403"), (exchange, key)


def test_F4_nothing_is_declared_bound_purged_or_deleted(two: Any) -> None:
    first, _, sdk, _ = two
    own = first.creds["task_queue_info"]["queue"]
    for url in (first.creds["task_queue_info"]["connection_url"], sdk["connection_url"]):
        for action in (
            lambda c: c.queue_declare("mine"),
            lambda c: c.exchange_declare("mine"),
            lambda c: c.queue_bind(own, "mepd.results", "#"),
            lambda c: c.queue_delete(own),
            lambda c: c.exchange_delete("mepd.results"),
        ):
            assert refused(url, action).startswith("403 ACCESS_REFUSED")


def test_a_result_counts_only_from_its_user_endpoint(
    two: Any, site: Site, mep: FakeMep
) -> None:
    """Jessie's user endpoint, with its own rights, cannot answer a task of Harper's."""
    _, second, _, _ = two
    victim = User(site, unique("victim"))
    body = {"tasks": {victim.register(double): [packed(1)]}}
    mep.hold = threading.Event()
    answer = victim.call("POST", f"/v3/endpoints/{mep.id}/submit", body).json()
    (task,) = next(iter(answer["tasks"].values()))
    info = second.creds["result_queue_info"]
    connection = pika.BlockingConnection(pika.URLParameters(info["connection_url"]))
    channel = connection.channel()
    channel.confirm_delivery()
    forged = message.pack_result(message.Result(task, "36\nno"))
    second.publish(channel, "result_queue_info", forged)
    connection.close()
    poll(lambda: "1 results were not awaited" in site.log(), "the forgery is seen")
    assert victim.call("GET", f"/v2/tasks/{task}").json()["status"].startswith("waiting")
    mep.hold.set()
    path = f"/v2/tasks/{task}"
    poll(lambda: victim.call("GET", path).json()["status"] == "success", "the true result")
    assert "no" not in victim.call("GET", path).json()["result"]


def test_headers_that_pika_cannot_decode_cost_nobody_else(
    two: Any, site: Site, mep: FakeMep
) -> None:
    """A user endpoint sends them as results and as heartbeats; others' results go on."""
    first, _, _, _ = two
    url = first.creds["task_queue_info"]["connection_url"]
    connection = pika.BlockingConnection(pika.URLParameters(url))
    channel = connection.channel()
    channel.confirm_delivery()
    for value in ODD_HEADERS.values():
        for exchange in ("mepd.results", "mepd.heartbeats"):
            channel.basic_publish(exchange, first.id, b"x", OddProperties(value))
    connection.close()
    poll(
        lambda: site.log().count("dropping a message of user endpoint") == 2
        and site.log().count("dropping a status report of") == 2,
        "they are read and dropped",
    )
    another = User(site, unique("another"))
    _, answer = submitted(another, mep)
    (task,) = next(iter(answer["tasks"].values()))
    poll(lambda: another.finished([task]), "another's result")
    assert not lines_with("connection to the broker closed", site.log())


def test_accounts_end(site: Site) -> None:
    """A deleted endpoint's account and a wrong password are refused at login."""
    owner = User(site, unique("owner"))
    endpoint = FakeMep(owner)
    url = endpoint.info["command_queue_info"]["connection_url"]
    parameters = pika.URLParameters(url)
    pika.BlockingConnection(parameters).close()
    assert owner.call("DELETE", f"/v2/endpoints/{endpoint.id}").status_code == 200

    def ended() -> bool:
        try:
            pika.BlockingConnection(parameters).close()
            return False
        except ProbableAuthenticationError:
            return True
        except AMQPError:
            return False

    poll(ended, "the account has ended (the broker caches for ten seconds)", 30)
    wrong = pika.URLParameters(url)
    wrong.credentials = pika.PlainCredentials("guest", "guest")
    with pytest.raises(ProbableAuthenticationError):
        pika.BlockingConnection(wrong)
