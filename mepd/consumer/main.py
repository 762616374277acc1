"""The AMQP worker: one process, one loop, every endpoint's link to the service.

Runs as the service account and is all that ever parses a byte of the network; see
mepd.wire.worker for what it may say to the master.
"""

from __future__ import annotations

import itertools
import logging
import os
import secrets
import socket
import sys
from collections.abc import Iterator
from typing import Any

from pika.adapters.select_connection import IOLoop

from mepd import log
from mepd.consumer import tokens
from mepd.consumer.link import EndpointLink
from mepd.consumer.notice import Notices
from mepd.consumer.pipe import MasterPipe
from mepd.errors import WireError
from mepd.wire.worker import (
    DrainEndpoint,
    DropEndpoint,
    NoticeDone,
    NoticeSent,
    Ping,
    Pong,
    Ready,
    SendNotice,
    ServeEndpoint,
    Settle,
    Stop,
)

TITLE = "mepd: amqp-consumer"
STOP_S = 0.9
"""How long a stop waits for last heartbeats and notices under way."""

MASTER_PATIENCE_S = 90.0
"""How long a master that pings may be silent; it pings every 20 s."""

_log = logging.getLogger(__name__)


def _generations() -> Iterator[str]:
    """Names of channels; another life of this worker makes others."""
    life = secrets.token_hex(4)
    return (f"{life}-{n}" for n in itertools.count(1))


class Consumer:
    """The links by endpoint name, and the dispatch of what the master asks."""

    def __init__(self, sock: socket.socket) -> None:
        self._loop: Any = IOLoop()
        self._pipe = MasterPipe(sock, self._loop, self._dispatch, self._master_gone)
        self._notices = Notices(self._loop)
        self._links: dict[str, EndpointLink] = {}
        self._generations = _generations()
        self._closing = 0
        self._stopping = False
        self._exit_code = os.EX_OK
        self._patience: Any = None

    def run(self) -> int:
        """Serve until the master says Stop or is gone. Returns the exit code."""
        self._pipe.send(Ready())
        self._loop.start()
        return self._exit_code

    def _dispatch(self, message: Any) -> None:
        match message:
            case ServeEndpoint():
                self._serve(message)
            case DrainEndpoint(name=name):
                if name in self._links:
                    self._links[name].drain()
            case DropEndpoint(name=name):
                self._drop(name)
            case Settle():
                self._settle(message)
            case SendNotice():
                self._notify(message)
            case Ping():
                self._pinged()
            case Stop():
                self._stop()

    def _pinged(self) -> None:
        self._pipe.send(Pong())
        if self._patience is not None:
            self._loop.remove_timeout(self._patience)
        self._patience = self._loop.call_later(MASTER_PATIENCE_S, self._master_is_silent)

    def _master_is_silent(self) -> None:
        """It is stopped or hangs: what it holds is for another master on the queue, if there
        is one. When it goes on, it finds this worker gone and starts the next."""
        _log.critical(
            "the master has been silent for %.0f s: its start requests go back to the broker",
            MASTER_PATIENCE_S,
        )
        self._exit_code = os.EX_TEMPFAIL
        self._stop()

    def _serve(self, serve: ServeEndpoint) -> None:
        old = self._links.get(serve.name)
        if self._stopping or (old is not None and old.update(serve)):
            return
        if old is not None:
            old.close()
        self._links[serve.name] = EndpointLink(
            serve, self._loop, self._pipe, self._notices, self._generations
        )

    def _drop(self, name: str) -> None:
        link = self._links.pop(name, None)
        if link is not None:
            self._closing += 1
            link.close(self._link_closed)

    def _link_closed(self) -> None:
        self._closing -= 1
        self._maybe_end()

    def _settle(self, message: Settle) -> None:
        token = tokens.parse(message.token)
        link = self._links.get(token.endpoint) if token is not None else None
        if token is None or link is None:
            _log.info("nothing to settle for a token of no endpoint here")
            return
        link.settle(token, message.told)

    def _notify(self, message: SendNotice) -> None:
        def done(failure: str) -> None:
            if failure:
                _log.warning("endpoint %s: notice not sent: %s", message.endpoint, failure)
            self._pipe.send(NoticeDone(message.notice_id, not failure, failure))
            self._maybe_end()

        link = self._links.get(message.endpoint)
        if link is None:
            done("the endpoint is not served")
        else:
            link.send_notice(
                message.text, message.amqp_creds, done,
                lambda: self._pipe.send(NoticeSent(message.notice_id)),
            )  # fmt: skip

    def _stop(self) -> None:
        if self._stopping:
            return
        self._stopping = True
        self._loop.call_later(STOP_S, self._loop.stop)
        for name in list(self._links):
            self._drop(name)
        self._maybe_end()

    def _maybe_end(self) -> None:
        if self._stopping and not self._closing and self._notices.idle:
            # One turn more, for frames that are queued for brokers and master
            self._loop.call_later(0, self._loop.stop)

    def _master_gone(self, fault: WireError | None) -> None:
        if fault is not None:
            _log.critical("the master's message is unusable: %s", fault)
            self._exit_code = os.EX_PROTOCOL
        self._loop.stop()


def run(sock: socket.socket) -> int:
    """The worker's life, entered as the service account; ``sock`` leads to the master.

    The level of the log is the one that this process has inherited. Returns the exit code.
    """
    # A master that reads no log must not stall the heartbeats; the handler drops the line
    os.set_blocking(sys.stderr.fileno(), False)
    level = logging.getLevelName(logging.getLogger().getEffectiveLevel())
    log.configure(TITLE, [log.JsonLineHandler()], level)
    # The links say in one line what pika says in ten
    logging.getLogger("pika").setLevel(logging.CRITICAL)
    try:
        return Consumer(sock).run()
    except Exception:
        _log.exception("the AMQP worker failed")
        return os.EX_SOFTWARE
