"""The gateway's parts, put together: one store, one link to the broker, one loop."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import time
import uuid
from collections.abc import AsyncIterator

import pika

from mepd.errors import WireError
from mepd.gateway import accounts, names, registry, taskstore
from mepd.gateway.amqp import Link, Session
from mepd.gateway.batcher import Batcher
from mepd.gateway.config import Settings
from mepd.gateway.database import Database
from mepd.gateway.dispatch import Dispatcher, is_listening
from mepd.gateway.failures import BrokerDown, StoreUnavailable
from mepd.gateway.locks import Locks
from mepd.gateway.login import attempts
from mepd.gateway.login import sessions as browser_sessions
from mepd.gateway.login.desk import Desk
from mepd.gateway.metrics import Metrics
from mepd.gateway.oauth import grants
from mepd.gateway.policy.enforce import PolicyCache
from mepd.gateway.presence import Presence, period_of
from mepd.gateway.rates import Rates, Waiting
from mepd.gateway.relay import Relay
from mepd.gateway.revive import Reviver
from mepd.gateway.sparinglog import SparingLog
from mepd.gateway.starts import Starts
from mepd.gateway.strict import check_tokens, storable
from mepd.wire import jsonlimits, message

log = logging.getLogger(__name__)

HEARTBEAT_PREFETCH = 256
ERROR_MAX = 4000
REPORT_MAX = 4 * 1024 * 1024
"""Bytes of a status report; that of an endpoint of Globus Compute names tasks."""
HOUSEKEEPING_S = 3600.0
GROUPS_KEPT_S = 366 * 86400.0
"""Task groups without tasks: a program may wait for long, and then submit to its own again."""
CATCH_UP_S = 5.0
RECONNECT_S = 20.0
"""What user endpoints have to come back after the broker, or after the gateway itself."""
MEP_GRACE_S = 86400.0
"""An endpoint heard within this time before a restart is taken for online at first."""


class Service:
    """What the routes use. ``running`` keeps its tasks going."""

    def __init__(self, settings: Settings, db: Database) -> None:
        self.settings = settings
        self.db = db
        self.failed = False
        self.metrics = Metrics()
        self.rates = Rates(settings.requests_per_second, settings.requests_burst)
        self.waiting = Waiting(settings.max_waiting)
        self.desk = Desk(db, settings.public_url, settings.oidc)
        self.policies = PolicyCache()
        self.locks = Locks()
        self.link = Link(_parameters(settings), self._up, self._down)
        self.presence = Presence(on_gone=self._gone, on_online=self._came)
        self.starts = Starts(
            db, self.link, self.presence, settings.public_broker, settings.start_timeout
        )
        self.reviver = Reviver(
            db, self.link, self.presence, self.starts, settings.offline_patience, self.locks
        )
        self.relay = Relay(db, self.link, self.metrics)
        self.reviver.relay = self.relay
        self.dispatcher = Dispatcher(db, self.link, self._refused)
        self._gauges()
        self._sparing = SparingLog(log)
        self._looking: set[asyncio.Task[None]] = set()
        self._presence_log: Batcher[None] = Batcher("heartbeats", self._store_presence)

    def _gauges(self) -> None:
        metrics = self.metrics
        metrics.gauge(
            "broker_connected", "1 while the broker is.", lambda: float(self.link.connected)
        )
        metrics.gauge(
            "submissions_waiting", "Submissions that wait.", lambda: float(self.waiting.count)
        )
        metrics.gauge(
            "online", "Endpoints and user endpoints.", lambda: float(self.presence.count())
        )

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Raises StoreUnavailable."""
        await self._restore()
        jobs = [
            asyncio.create_task(job)
            for job in (
                self.link.run(),
                self.relay.run(),
                self.dispatcher.run(),
                self._presence_log.run(),
                self._housekeeping(),
                self._sweep(),
            )
        ]
        for job in jobs:
            job.add_done_callback(self._job_ended)
        try:
            yield
        finally:
            for job in jobs:
                job.cancel()
            await asyncio.gather(*jobs, return_exceptions=True)
            await self._store_presence([])

    def _job_ended(self, job: asyncio.Task[None]) -> None:
        """None of them ends by itself: without one the gateway would serve half."""
        if job.cancelled():
            return
        log.critical("a part of the gateway has failed; stopping", exc_info=job.exception())
        self.failed = True
        signal.raise_signal(signal.SIGTERM)

    async def identity_of(self, token: str) -> str | None:
        """The identity that holds a token; None for one that is not good.

        Raises StoreUnavailable.
        """
        caller = await self.db.aread(accounts.caller, token)
        return caller.identity_id if caller is not None else None

    async def _restore(self) -> None:
        """Take for online what was so, until the broker is there and heartbeats tell."""
        now = time.time()
        known = await self.db.aread(registry.known_online, now - MEP_GRACE_S)
        open_ueps = set(await self.db.aread(taskstore.ueps_with_open_tasks))
        meps = await self.db.aread(registry.endpoint_ids)
        for ident, until, period in known:
            if until > now or ident in open_ueps or ident in meps:
                self.presence.report(ident, period)
        self.presence.hold()

    # --- the broker ---------------------------------------------------------------
    async def _up(self, session: Session) -> None:
        for name in (names.HEARTBEATS, names.RESULTS):
            await session.call(
                "exchange_declare", exchange=name, exchange_type="topic", durable=True
            )
            await session.call("queue_declare", queue=name, durable=True)
            await session.call("queue_bind", queue=name, exchange=name, routing_key="#")
        self.presence.restart_clocks()
        await self.relay.consume(session)
        await self._consume_heartbeats(session)
        try:
            await self._flush(not self.db.shared)
            for uep_id in await self.db.aread(taskstore.ueps_with_open_tasks):
                if not self.presence.online(uep_id):
                    self.reviver.gone(uep_id)
            asyncio.get_running_loop().call_later(RECONNECT_S, self._miss_the_dead)
        except StoreUnavailable as e:
            raise BrokerDown(f"giving the connection up for now, {e}") from e

    def _miss_the_dead(self) -> None:
        job = asyncio.ensure_future(self._look_for_the_dead())
        self._looking.add(job)
        job.add_done_callback(self._looking.discard)

    async def _look_for_the_dead(self) -> None:
        """User endpoints with open tasks that have not come back with the broker."""
        try:
            for uep_id in await self.db.aread(taskstore.ueps_with_open_tasks):
                if self.presence.online(uep_id) and not await is_listening(self.link, uep_id):
                    self.presence.goodbye(uep_id)
        except (BrokerDown, StoreUnavailable) as e:
            log.info("not looking for lost user endpoints now: %s", e)

    async def _consume_heartbeats(self, session: Session) -> None:
        """Every process hears every report, in a queue of its own. What came while there was
        none waits in the common queue, for the process that comes first."""
        own = f"{names.HEARTBEATS}.{uuid.uuid4()}"
        await session.call("queue_declare", queue=own, exclusive=True, auto_delete=True)
        await session.call("queue_bind", queue=own, exchange=names.HEARTBEATS, routing_key="#")
        waiting = await session.call("queue_declare", queue=names.HEARTBEATS, durable=True)
        await self._catch_up(session, waiting.message_count)
        await session.consume(own, HEARTBEAT_PREFETCH, lambda _, k, b: self._heartbeat(k, b), True)

    async def _catch_up(self, session: Session, count: int) -> None:
        """Hear the ``count`` oldest reports of the common queue; later ones are in our own."""
        left = count
        done = asyncio.Event()

        def deliver(_tag: int, key: str, body: bytes) -> None:
            nonlocal left
            if left > 0:
                self._heartbeat(key, body)
            left -= 1
            if left <= 0:
                done.set()

        await session.consume(names.HEARTBEATS, HEARTBEAT_PREFETCH, deliver, True)
        if count:
            with contextlib.suppress(TimeoutError):  # another process may have taken some
                await asyncio.wait_for(done.wait(), CATCH_UP_S)

    async def _flush(self, all_of_them: bool = False) -> None:
        await self.relay.flush(all_of_them)
        await self.dispatcher.flush(all_of_them)

    async def _sweep(self) -> None:
        """See to what another process has left when it died."""
        while True:
            await asyncio.sleep(taskstore.LEASE_S / 2)
            if self.link.connected:
                try:
                    await self._flush()
                except StoreUnavailable as e:
                    log.warning("looking for tasks left behind: %s", e)

    def _refused(self, task: taskstore.Outgoing, why: str) -> None:
        self.relay.refuse(task.id, task.uep_id, why)

    def _down(self) -> None:
        self.presence.hold()

    def _heartbeat(self, key: str, body: bytes) -> None:
        """One status report; ``key`` is the sender's id, which the broker has enforced."""
        try:
            report = _read_report(body, key)
        except WireError as e:
            self._sparing.write(
                logging.WARNING, key, "dropping a status report of %s: %s", key, e
            )
            return
        error = report.global_state.get("error")
        period = period_of(report.global_state)
        if error is not None:
            text = storable(str(error)[:ERROR_MAX])
            self.starts.failed(key, text)
            self.presence.goodbye(key)
            self.reviver.gone(key, text)
        elif period is None:
            self.presence.goodbye(key)
        else:
            self.presence.report(key, period)
            self.starts.heard(key)
        self._presence_log.add(None)

    # --- presence -----------------------------------------------------------------
    def _gone(self, ident: str) -> None:
        self._sparing.write(logging.INFO, ident, "endpoint %s is offline", ident)
        self._presence_log.add(None)
        self.reviver.gone(ident)

    def _came(self, ident: str) -> None:
        self._sparing.write(logging.INFO, ident, "endpoint %s is online", ident)
        self.reviver.online(ident)

    async def _store_presence(self, _signals: list[None]) -> None:
        changes = self.presence.take_changes()
        try:
            if changes:
                await self.db.awrite(registry.store_presence, changes)
        except StoreUnavailable:
            self.presence.put_back(changes)
            raise

    async def _housekeeping(self) -> None:
        while True:
            await asyncio.sleep(HOUSEKEEPING_S)
            try:
                await self.forget(time.time())
            except StoreUnavailable as e:
                log.warning("housekeeping: %s", e)

    async def forget(self, now: float) -> None:
        """What is over; of what may be much a piece at a time, as all else that is written
        waits meanwhile. Raises StoreUnavailable."""
        finished = now - self.settings.keep_results
        while await self.db.awrite(taskstore.expire, finished):
            pass
        unused = min(finished, now - names.QUEUE_LIFETIME_MS / 1000)
        while await self.db.awrite(registry.forget_ueps, unused):
            pass
        while await self.db.awrite(taskstore.forget_groups, now - GROUPS_KEPT_S):
            pass
        for purge in (
            accounts.purge_tokens,
            grants.purge,
            attempts.purge,
            browser_sessions.purge,
        ):
            await self.db.awrite(purge, now)


def _read_report(body: bytes, sender: str) -> message.StatusReport:
    """Raises WireError, also for a report in the name of another."""
    if len(body) > REPORT_MAX:
        raise WireError(f"it has {len(body)} bytes")
    check_tokens(body)
    report = message.unpack_status(body)
    if report.endpoint_id != sender:
        raise WireError("it is in the name of another")
    jsonlimits.check(report.global_state, "global_state")
    return report


def _parameters(settings: Settings) -> pika.ConnectionParameters:
    return pika.ConnectionParameters(
        host=settings.broker_host,
        port=settings.broker_port,
        virtual_host=settings.public_broker.vhost,
        credentials=pika.PlainCredentials(settings.broker_user, settings.broker_password),
        heartbeat=30,
        connection_attempts=1,
        socket_timeout=10,
        client_properties={"connection_name": "mepd-gateway"},
    )
