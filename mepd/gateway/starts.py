"""Starting user endpoints: one request however many wait, until the first report."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from dataclasses import dataclass
from typing import Any

from pika.spec import BasicProperties
from sqlalchemy import Connection, Row

from mepd.gateway import accounts, brokeraccounts, names
from mepd.gateway.amqp import Link
from mepd.gateway.database import Database
from mepd.gateway.dispatch import declare_task_queue
from mepd.gateway.failures import BrokerDown, StartFailed, StoreUnavailable
from mepd.gateway.presence import Presence

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Uep:
    """All that starting a user endpoint takes."""

    id: str
    endpoint_id: str
    identity_id: str
    config: dict[str, Any]
    runtime: dict[str, Any]


def uep_of(row: Row[Any]) -> Uep:
    return Uep(row.id, row.endpoint_id, row.identity_id, row.config, row.runtime)


@dataclass(frozen=True)
class Person:
    """Whom a user endpoint is for; ``creds`` are its new account and password.

    No closed identity is in the set: not every mapper looks at its status.
    """

    username: str
    identity_set: list[dict[str, Any]]
    creds: tuple[str, str]


def person_of(tx: Connection, uep: Uep) -> Person:
    """The open identities of the user, and new broker credentials for his user endpoint."""
    row = accounts.find_identity(tx, uep.identity_id)
    if row.status == accounts.CLOSED:
        raise StartFailed("The identity is disabled")
    creds = brokeraccounts.issue(tx, brokeraccounts.UEP, uep.id)
    linked = accounts.identity_set(tx, row.person)
    is_open = [identity for identity in linked if identity["status"] != accounts.CLOSED]
    return Person(row.username, is_open, creds)


def start_message(uep: Uep, person: Person, url: str) -> bytes:
    """The body of the start request; see mepd.wire.start_request for its reader."""
    kwargs = {
        "name": f"uep.{uep.endpoint_id}.{uep.id}",
        "amqp_creds": names.uep_document(uep.id, url),
        "user_opts": uep.config,
        "user_runtime": uep.runtime,
    }
    body = {
        "command": "cmd_start_endpoint",
        "args": [],
        "kwargs": kwargs,
        "globus_effective_identity": uep.identity_id,
        "globus_username": person.username,
        "globus_identity_set": person.identity_set,
    }
    return json.dumps(body).encode("ascii")


class Starts:
    """``timeout``: seconds that a user endpoint has for its first report."""

    def __init__(
        self,
        db: Database,
        link: Link,
        presence: Presence,
        broker: names.PublicBroker,
        timeout: float,
    ) -> None:
        self._db = db
        self._link = link
        self._presence = presence
        self._broker = broker
        self._timeout = timeout
        self._pending: dict[str, asyncio.Future[None]] = {}
        self._work: set[asyncio.Task[None]] = set()

    async def ensure(self, uep: Uep) -> None:
        """Return when the user endpoint is online.

        Raises StartFailed with a text for the user, BrokerDown, StoreUnavailable.
        """
        if self._presence.online(uep.id):
            return
        pending = self._pending.get(uep.id)
        if pending is None:
            pending = self._begin(uep)
        await asyncio.shield(pending)

    def check_endpoint(self, endpoint_id: str) -> None:
        """Raises StartFailed if the endpoint cannot start anything now."""
        if not self._presence.online(endpoint_id):
            raise StartFailed(
                f"Endpoint {endpoint_id} is not online; no user endpoint can be started"
            )

    def _begin(self, uep: Uep) -> asyncio.Future[None]:
        self.check_endpoint(uep.endpoint_id)
        loop = asyncio.get_running_loop()
        pending: asyncio.Future[None] = loop.create_future()
        self._pending[uep.id] = pending
        timer = loop.call_later(self._timeout, self._expire, uep)

        def ended(future: asyncio.Future[None]) -> None:
            timer.cancel()
            self._pending.pop(uep.id, None)
            future.exception()  # seen, even if nobody waits any more

        pending.add_done_callback(ended)
        worker = asyncio.ensure_future(self._request(uep, pending))
        self._work.add(worker)
        worker.add_done_callback(self._work.discard)
        return pending

    def _expire(self, uep: Uep) -> None:
        self.failed(
            uep.id,
            f"User endpoint {uep.id} did not check in within {self._timeout:g} seconds",
        )

    async def _request(self, uep: Uep, pending: asyncio.Future[None]) -> None:
        try:
            person = await self._db.awrite(person_of, uep)
            await declare_task_queue(self._link, uep.id)
            properties = BasicProperties(
                content_type="application/json", delivery_mode=2, timestamp=int(time.time())
            )
            body = start_message(uep, person, self._broker.url(*person.creds))
            queue = names.command_queue(uep.endpoint_id)
            await self._link.publish("", queue, body, properties)
            log.info("asked endpoint %s to start user endpoint %s", uep.endpoint_id, uep.id)
        except (BrokerDown, StoreUnavailable, StartFailed) as e:
            if not pending.done():
                pending.set_exception(e)
        except Exception as e:
            log.exception("start of user endpoint %s", uep.id)
            if not pending.done():
                pending.set_exception(StartFailed(f"internal error ({type(e).__name__})"))

    def heard(self, uep_id: str) -> None:
        """The user endpoint has reported."""
        pending = self._pending.get(uep_id)
        if pending is not None and not pending.done():
            pending.set_result(None)

    def failed(self, uep_id: str, text: str) -> None:
        pending = self._pending.get(uep_id)
        if pending is not None and not pending.done():
            log.info("start of user endpoint %s failed: %s", uep_id, text)
            pending.set_exception(StartFailed(text))
