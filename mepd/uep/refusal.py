"""Telling the user why this UEP did not come up: one status report, then the end."""

from __future__ import annotations

import logging
from typing import Any

from mepd.uep.amqp import IOLoop
from mepd.uep.document import Document
from mepd.uep.link import Link
from mepd.uep.publisher import Publisher
from mepd.wire.message import StatusReport, pack_status

log = logging.getLogger(__name__)

DEADLINE = 5.0


def error_state(text: str, info: dict[str, Any]) -> dict[str, Any]:
    """The global_state of a start that failed, as the service understands it."""
    return {**info, "error": text, "active": False, "heartbeat_period": 0}


def report_failure(document: Document, text: str, port: int | None = None) -> bool:
    """Publish ``text`` to the heartbeat queue within DEADLINE seconds; whether it got there."""
    loop = IOLoop()
    sent = False
    packed = pack_status(
        StatusReport(document.endpoint_id, error_state(text, document.ep_info))
    )

    def done(_keys: list[str]) -> None:
        nonlocal sent
        sent = True
        link.stop(loop.stop)

    def publish() -> None:
        publisher.publish("status", packed)

    publisher = Publisher(
        "heartbeats",
        lambda: dict(document.amqp_creds["heartbeat_queue_info"]),
        done,
        lambda _key, _body: loop.stop(),
        publish,
    )
    link = Link(loop, [publisher], port, lambda _text: loop.stop())
    loop.call_later(DEADLINE, loop.stop)
    link.start()
    loop.start()
    loop.close()
    if not sent:
        log.warning("the failure could not be told to the service")
    return sent
