"""The UEP's side of the broker: tasks in, results and heartbeats out, by few connections."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from mepd.uep.amqp import IOLoop
from mepd.uep.link import Link, Role
from mepd.uep.publisher import Publisher
from mepd.uep.taskfeed import Deliver, TaskFeed, Token

OVERDUE = 1.0
"""Seconds in which a broker in good health has confirmed a result long since."""


@dataclass(frozen=True)
class BrokerEvents:
    """``ready`` once, when all channels are up first; ``results_up`` at each return of that
    channel; ``settled`` whenever nothing published is left unconfirmed; ``overdue`` for each
    result that has waited for its confirm for OVERDUE seconds, again and again."""

    deliver: Deliver
    confirmed: Callable[[list[str]], None]
    unconfirmed: Callable[[str, bytes], None]
    too_large: Callable[[str, bytes, int], None]
    overdue: Callable[[str, bytes], None]
    results_up: Callable[[], None]
    settled: Callable[[], None]
    ready: Callable[[], None]
    refused: Callable[[str], None]


class Broker:
    """``creds`` gives what to connect with; see mepd.uep.credentials."""

    def __init__(
        self,
        loop: IOLoop,
        creds: Callable[[], dict[str, Any]],
        port: int | None,
        prefetch: int,
        events: BrokerEvents,
    ) -> None:
        self._creds = creds
        self._events = events
        self._announced = False
        self._watching = False
        self._loop = loop
        self._tasks = TaskFeed(
            lambda: self._info("task_queue_info"), prefetch, events.deliver, self._role_up
        )
        self._results = Publisher(
            "results",
            lambda: self._info("result_queue_info"),
            self._confirmed,
            events.unconfirmed,
            self._results_up,
            events.too_large,
        )
        self._heartbeats = Publisher(
            "heartbeats",
            lambda: self._info("heartbeat_queue_info"),
            lambda _keys: self._settled(),
            lambda _key, _body: self._settled(),
            self._role_up,
        )
        roles = (self._tasks, self._results, self._heartbeats)
        self._make_link: Callable[[Sequence[Role]], Link] = lambda group: Link(
            loop, group, port, events.refused, self._part
        )
        self._links = [self._make_link(group) for group in group_by_url(roles)]

    def _info(self, name: str) -> dict[str, Any]:
        info: dict[str, Any] = self._creds()[name]
        return info

    def start(self) -> None:
        for link in self._links:
            link.start()

    def _part(self, roles: Sequence[Role]) -> None:
        """New credentials name a URL of their own for these."""
        link = self._make_link(roles)
        self._links.append(link)
        link.start()

    def _confirmed(self, task_ids: list[str]) -> None:
        self._events.confirmed(task_ids)
        self._settled()

    def _settled(self) -> None:
        if not self.unsettled:
            self._events.settled()

    def _results_up(self) -> None:
        self._events.results_up()
        self._role_up()

    def _role_up(self) -> None:
        up = self._tasks.up and self._results.up and self._heartbeats.up
        if up and not self._announced:
            self._announced = True
            self._events.ready()

    @property
    def results_up(self) -> bool:
        return self._results.up

    @property
    def unsettled(self) -> int:
        """Messages that the broker has yet to confirm."""
        return self._results.unconfirmed + self._heartbeats.unconfirmed

    def hurry(self) -> None:
        """There are new credentials: whoever waits to connect tries them now."""
        for link in self._links:
            link.hurry()

    def publish_result(self, task_id: str, packed: bytes) -> bool:
        sent = self._results.publish(task_id, packed)
        if sent and not self._watching:
            self._watch()
        return sent

    def _watch(self) -> None:
        """Look at what is unconfirmed, for as long as something is."""
        self._watching = bool(self._results.unconfirmed)
        for task_id, packed in self._results.overdue(OVERDUE):
            self._events.overdue(task_id, packed)
        if self._watching:
            self._loop.call_later(OVERDUE, self._watch)

    def publish_status(self, packed: bytes) -> bool:
        return self._heartbeats.publish("status", packed)

    def ack(self, tokens: list[Token]) -> None:
        self._tasks.ack(tokens)

    def check(self) -> None:
        for link in self._links:
            link.check()

    def stop_consuming(self) -> None:
        self._tasks.stop()

    def stop(self, on_stopped: Callable[[], None]) -> None:
        """Close every connection, then call ``on_stopped`` once."""
        left = len(self._links)

        def one_stopped() -> None:
            nonlocal left
            left -= 1
            if not left:
                on_stopped()

        for link in self._links:
            link.stop(one_stopped)


def group_by_url(roles: Iterable[Role]) -> list[list[Role]]:
    """Roles that can share a connection, since they name the same URL."""
    groups: dict[str, list[Role]] = {}
    for role in roles:
        groups.setdefault(role.url(), []).append(role)
    return list(groups.values())
