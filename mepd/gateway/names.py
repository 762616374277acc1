"""Names at the broker, and the documents that tell them to endpoints.

Both exchanges are of type topic: RabbitMQ checks the routing key of each message
published to such an exchange against the sender's rights.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

HEARTBEATS = "mepd.heartbeats"
RESULTS = "mepd.results"
GROUP_PREFIX = "mepd.group."
QUEUE_LIFETIME_MS = 14 * 86400 * 1000
CONSUMER_TIMEOUT_MS = 366 * 86400 * 1000


def command_queue(endpoint_id: str) -> str:
    return f"mepd.commands.{endpoint_id}"


def task_queue(uep_id: str) -> str:
    return f"mepd.tasks.{uep_id}"


def group_queue(group_id: str) -> str:
    return GROUP_PREFIX + group_id


def late_ack_arguments(lifetime_ms: int | None = None) -> dict[str, Any]:
    """Arguments of a queue whose deliveries are acknowledged late.

    RabbitMQ heeds x-consumer-timeout from 3.12 on; older ones need their rabbitmq.conf.
    """
    arguments: dict[str, Any] = {"x-consumer-timeout": CONSUMER_TIMEOUT_MS}
    if lifetime_ms is not None:
        arguments["x-expires"] = lifetime_ms
    return arguments


def command_queue_arguments() -> dict[str, Any]:
    """Of two mepds that serve one endpoint, one gets the start requests until it is gone."""
    return late_ack_arguments() | {"x-single-active-consumer": True}


@dataclass(frozen=True)
class PublicBroker:
    """Where endpoints and SDKs reach the broker."""

    host: str
    port: int
    vhost: str = "/"
    tls: bool = False

    def url(self, username: str, password: str) -> str:
        scheme = "amqps" if self.tls else "amqp"
        account = f"{quote(username, safe='')}:{quote(password, safe='')}"
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{scheme}://{account}@{host}:{self.port}/{quote(self.vhost, safe='')}"


def _publish_info(url: str, exchange: str, subject: str) -> dict[str, Any]:
    return {
        "connection_url": url,
        "queue": exchange,  # the gateway's own queue has its exchange's name
        "exchange": exchange,
        "queue_publish_kwargs": {
            "exchange": exchange,
            "routing_key": subject,
            "mandatory": True,
            "properties": {"delivery_mode": 2},
        },
    }


def mep_document(endpoint_id: str, url: str) -> dict[str, Any]:
    """The answer to a registration."""
    return {
        "endpoint_id": endpoint_id,
        "command_queue_info": {"connection_url": url, "queue": command_queue(endpoint_id)},
        "heartbeat_queue_info": _publish_info(url, HEARTBEATS, endpoint_id),
    }


def uep_document(uep_id: str, url: str) -> dict[str, Any]:
    """``amqp_creds`` of a start request."""
    return {
        "endpoint_id": uep_id,
        "task_queue_info": {"connection_url": url, "queue": task_queue(uep_id)},
        "result_queue_info": _publish_info(url, RESULTS, uep_id),
        "heartbeat_queue_info": _publish_info(url, HEARTBEATS, uep_id),
    }
