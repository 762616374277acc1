"""The closed set of messages between the master and its two workers.

Direction matters: each side decodes only the set that the other may send.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


# --- both workers ---------------------------------------------------------------------
@dataclass(frozen=True)
class Ready:
    """The worker has dropped its privileges and entered its loop."""


@dataclass(frozen=True)
class Stop:
    """Finish and exit 0; what is unacked goes back to the broker."""


@dataclass(frozen=True)
class Ping:
    """Say that you still turn."""


@dataclass(frozen=True)
class Pong:
    """The answer."""


# --- master -> amqp-consumer ----------------------------------------------------------
@dataclass(frozen=True)
class ServeEndpoint:
    """Register an endpoint with the service and consume its command queue.

    ``registration`` is the body of POST /v3/endpoints; ``credential`` is
    ``{"client_id": ..., "client_secret": ...}`` or ``{"token": ...}``. With
    ``want_identities`` the service is asked whose credential that is, and OwnIdentities
    comes before the first start request.
    """

    name: str
    endpoint_id: str | None
    service_url: str
    registration: dict[str, Any]
    heartbeat_period: float
    amqp_port: int | None = None
    credential: dict[str, Any] = field(default_factory=dict, repr=False)
    want_identities: bool = False


@dataclass(frozen=True)
class DrainEndpoint:
    """Take no more requests of an endpoint and say goodbye to the service; what is under
    way can still be settled and told until it is dropped."""

    name: str


@dataclass(frozen=True)
class DropEndpoint:
    """Stop serving an endpoint: last heartbeat, cancel, close."""

    name: str


@dataclass(frozen=True)
class Settle:
    """The outcome of a start request is known: acknowledge its delivery.

    Without ``told`` nobody could be told of its failure: if its acknowledgement is lost, too,
    and it comes again, it is no replay.
    """

    token: str
    told: bool = True


@dataclass(frozen=True)
class SendNotice:
    """Tell the service that a UEP failed, with the credentials of its start request."""

    notice_id: str
    endpoint: str
    text: str
    amqp_creds: dict[str, Any] = field(repr=False)


# --- amqp-consumer -> master ----------------------------------------------------------
@dataclass(frozen=True)
class EndpointRegistered:
    name: str
    endpoint_id: str


@dataclass(frozen=True)
class OwnIdentities:
    """Who registered the endpoint: the identities that the service links to one person."""

    name: str
    identities: list[str]


@dataclass(frozen=True)
class EndpointOnline:
    """The broker link of an endpoint changed; ``reason`` says why it is down."""

    name: str
    online: bool
    reason: str = ""


@dataclass(frozen=True)
class RegistrationFailed:
    """The service refused the endpoint; ``fatal`` if trying again is useless."""

    name: str
    reason: str
    fatal: bool


@dataclass(frozen=True)
class StartRequested:
    """A schema-checked start request; ``token`` names its delivery for Settle."""

    token: str
    endpoint: str
    request: dict[str, Any] = field(repr=False)


@dataclass(frozen=True)
class RequestRefused:
    """A message was refused by the consumer itself and is settled; for the counters."""

    endpoint: str
    reason: str


@dataclass(frozen=True)
class NoticeSent:
    """A notice is on its way to the broker, which has not confirmed it yet."""

    notice_id: str


@dataclass(frozen=True)
class NoticeDone:
    notice_id: str
    sent: bool
    reason: str = ""


# --- config-watcher -------------------------------------------------------------------
@dataclass(frozen=True)
class Changed:
    """Files under the watched folders changed."""

    paths: list[str]


@dataclass(frozen=True)
class Validate:
    """Check the texts of an endpoint's files, by name."""

    token: str
    endpoint: str
    files: dict[str, str] = field(repr=False)


@dataclass(frozen=True)
class Validated:
    """The answer: ``error`` is empty when the files are good."""

    token: str
    error: str = ""


TO_CONSUMER = (ServeEndpoint, DrainEndpoint, DropEndpoint, Settle, SendNotice, Ping, Stop)
FROM_CONSUMER = (
    Ready,
    Pong,
    EndpointRegistered,
    OwnIdentities,
    EndpointOnline,
    RegistrationFailed,
    StartRequested,
    RequestRefused,
    NoticeSent,
    NoticeDone,
)
TO_WATCHER = (Validate, Ping, Stop)
FROM_WATCHER = (Ready, Pong, Changed, Validated)
