"""Nothing is lost and nothing is said twice: whoever dies or is away, and for how long."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from rabbit import Rabbit
from tcpproxy import Proxy
from uep_fixtures import PROCESSES, SERIALIZER, Service, Uep, services, starters, until, waits_for

Start = Callable[..., Uep]
COUNT = 60
"""Tasks that the user endpoint takes ahead; see PREFETCH_SPARE of mepd.uep.endpoint."""


@pytest.fixture
def service(rabbit: Rabbit) -> Iterator[Service]:
    yield from services(rabbit)


@pytest.fixture
def start(service: Service, tmp_path: Path) -> Iterator[Start]:
    yield from starters(service, tmp_path)


@pytest.fixture
def proxy(rabbit: Rabbit) -> Iterator[Proxy]:
    made = Proxy(rabbit.port)
    yield made
    made.end()


def through(proxy: Proxy, service: Service) -> dict[str, object]:
    url = service.rabbit.url().replace(f":{service.rabbit.port}/", f":{proxy.port}/")
    return service.creds(tasks=url, results=url, heartbeats=url)


def noted(path: str, n: int) -> int:
    import time

    with open(path, "a") as f:
        f.write(f"{n}\n")
    time.sleep(0.02)
    return n


def note(said: dict[str, list[object]], service: Service) -> None:
    result = service.result()
    said.setdefault(result.task_id, []).append(SERIALIZER.deserialize(result.data))


@pytest.mark.parametrize("killed", [False, True], ids=["it lives on", "it is killed meanwhile"])
def test_a_broker_that_is_away_for_long(
    service: Service, start: Start, proxy: Proxy, tmp_path: Path, killed: bool
) -> None:
    """What runs and what was taken finishes, results wait on disk; each comes once."""
    creds = through(proxy, service)
    uep = start(PROCESSES, creds=creds)
    uep.report()
    ran, go, begun = tmp_path / "ran", tmp_path / "go", tmp_path / "begun"
    long = service.send(waits_for, str(begun), str(go))
    ids = {service.send(noted, str(ran), n): n for n in range(COUNT)}
    wanted = {long: {"value"}, **{i: {n} for i, n in ids.items()}}
    until(begun.exists, "the long task to begin")
    until(lambda: service.depth(service.result_queue) >= 3, "the first results")
    proxy.end()
    until(lambda: len(ran.read_text().split()) == COUNT, "all tasks to run without the broker")
    go.touch()
    said: dict[str, list[object]] = {}
    while service.depth(service.result_queue):
        note(said, service)
    until(lambda: {*said, *uep.stored()} >= wanted.keys(), "every other result on disk")
    assert long in uep.stored() and uep.text().count("next attempt") >= 1
    if killed:
        uep.kill()
        uep = start(PROCESSES, creds=creds)
        until(lambda: uep.text().count("cannot connect") >= 2, "it to be refused")
    proxy.back()
    while len(said) <= COUNT:
        note(said, service)
    until(lambda: not uep.stored(), "all to be settled")
    uep.process.terminate()
    assert uep.wait() == 0
    assert Counter(ran.read_text().split()) == Counter(map(str, range(COUNT)))
    assert begun.read_text() == "begun\n"
    while service.depth(service.result_queue):
        note(said, service)
    # what was on its way when the wire broke may come again, with the same words
    assert {i: set(values) for i, values in said.items()} == wanted
    assert sum(map(len, said.values())) <= len(said) + 4
    assert service.depth(service.task_queue) == 0


def test_killed_between_publish_and_confirm_it_says_the_same_again(
    service: Service, start: Start, proxy: Proxy, tmp_path: Path
) -> None:
    """A broker that takes and does not answer: the result is on disk before long."""
    uep = start(PROCESSES, creds=through(proxy, service))
    uep.report()
    begun, go = tmp_path / "begun", tmp_path / "go"
    task = service.send(waits_for, str(begun), str(go))
    until(begun.exists, "the task to begin")
    proxy.silence()
    go.touch()
    until(lambda: service.depth(service.result_queue) == 1, "the result at the broker")
    until(lambda: uep.stored() == [task], "the result on disk")
    uep.kill()
    uep = start(PROCESSES)
    until(lambda: service.depth(service.result_queue) == 2, "the result once more")
    first, second = service.result(), service.result()
    assert first.task_id == second.task_id == task
    assert SERIALIZER.deserialize(first.data) == SERIALIZER.deserialize(second.data) == "value"
    until(lambda: not uep.stored(), "the task to be settled")
    assert begun.read_text() == "begun\n"
    uep.process.terminate()
    assert uep.wait() == 0
    assert service.depth(service.task_queue) == service.depth(service.result_queue) == 0
