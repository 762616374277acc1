"""mepd-uep whose broker account is revoked, and which finds a new one in its memory file."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from consumer_fixtures import control
from rabbit import Rabbit
from uep_fixtures import Service, Uep, services, starters, until

Start = Callable[..., Uep]


@pytest.fixture
def service(rabbit: Rabbit) -> Iterator[Service]:
    yield from services(rabbit)


@pytest.fixture
def start(service: Service, tmp_path: Path) -> Iterator[Start]:
    yield from starters(service, tmp_path)


class Account:
    """An account of the broker's own; ``url`` is what a service would hand out."""

    def __init__(self, rabbit: Rabbit) -> None:
        self.rabbit = rabbit
        self.name, password = (f"{what}-{uuid.uuid4().hex}" for what in ("account", "secret"))
        self.url = rabbit.url(self.name, password)
        self._eval(
            f'B:add_user(<<"{self.name}">>, <<"{password}">>, <<"test">>), '
            f'B:set_permissions(<<"{self.name}">>, <<"/">>, '
            '<<".*">>, <<".*">>, <<".*">>, <<"test">>)'
        )

    def _eval(self, code: str) -> None:
        control(self.rabbit, "eval", f"B = rabbit_auth_backend_internal, {code}.")

    def revoke(self) -> None:
        """It can log in no more, and its connections end."""
        self._eval(
            f'B:delete_user(<<"{self.name}">>, <<"test">>), [(catch rabbit_networking:'
            'close_connection(P, "revoked")) || P <- rabbit_networking:connections(), '
            f'[{{user, <<"{self.name}">>}}] =:= (catch rabbit_reader:info(P, [user]))]'
        )


def everywhere(service: Service, url: str) -> dict[str, object]:
    return service.creds(tasks=url, results=url, heartbeats=url)


def double(x: int) -> int:
    return 2 * x


@pytest.mark.parametrize("tell", [True, False], ids=["with mepd's word", "at the reconnect"])
def test_a_revoked_account_is_replaced_by_the_refreshed_one(
    rabbit: Rabbit, service: Service, start: Start, tell: bool
) -> None:
    old = Account(rabbit)
    uep = start(creds=everywhere(service, old.url))
    uep.report()
    service.send(double, 1)
    assert service.value() == 2
    if not tell:  # it is there before it is needed
        uep.refresh(everywhere(service, rabbit.url()), tell=False)
    old.revoke()
    until(lambda: "next attempt" in uep.text(), "the loss to be noticed")
    task = service.send(double, 4)
    if tell:
        until(lambda: uep.text().count("ACCESS_REFUSED") >= 2, "refused attempts")
        assert uep.process.poll() is None
        uep.refresh(everywhere(service, rabbit.url()))
    assert service.result().task_id == task
    assert "secret-" not in uep.text()


def test_the_refreshed_account_counts_from_the_start(
    rabbit: Rabbit, service: Service, start: Start
) -> None:
    """One revoked between the start request and the first connection, as a later one says."""
    config = {
        "engine": {"type": "ThreadPoolEngine", "max_workers": 1},
        "endpoint_setup": "until [ -e go ]; do sleep 0.05; done",
    }
    uep = start(config, creds=everywhere(service, rabbit.url("nobody", "secret-none")))
    uep.refresh(everywhere(service, rabbit.url()))
    (uep.home / "go").touch()
    service.send(double, 4)
    assert service.value() == 8


def test_urls_that_part_get_connections_of_their_own(
    rabbit: Rabbit, service: Service, start: Start
) -> None:
    """One URL for all, and then one account may take tasks and another give results."""
    one = Account(rabbit)
    uep = start(creds=everywhere(service, one.url))
    uep.report()
    other = Account(rabbit)
    uep.refresh(service.creds(tasks=other.url))
    one.revoke()
    service.send(double, 4)
    assert service.value() == 8
    users = control(rabbit, "list_connections", "user").split()
    assert users.count(other.name) == 1 and users.count(one.name) == 0


@pytest.mark.parametrize("what", ["garbage", "another key", "no credentials"])
def test_unusable_refreshed_credentials_are_left_alone(
    rabbit: Rabbit, service: Service, start: Start, what: str
) -> None:
    uep = start()
    uep.report()
    if what == "no credentials":
        uep.refresh({"endpoint_id": str(uuid.uuid4())})
    else:
        uep.scribble(other_key=what == "another key")
    control(rabbit, "close_all_connections", "test")
    until(lambda: "credentials are unusable" in uep.text(), "the log line")
    service.send(double, 4)
    assert service.value() == 8
    assert uep.text().count("credentials are unusable") == 1
