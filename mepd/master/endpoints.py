"""The endpoints that this mepd serves: their snapshots, their state, their counters."""

from __future__ import annotations

import json
import logging
import os
from dataclasses import dataclass, field

from mepd.config.names import UUID
from mepd.config.settings import EndpointSnapshot
from mepd.errors import WireError
from mepd.master.filebook import FileBook

log = logging.getLogger(__name__)


@dataclass(eq=False)
class Endpoint:
    """One endpoint; ``snapshot`` is replaced as a whole by a reload.

    ``by_hand`` is one that mepctl started: mepd.conf has no say in its end. One that is
    ``draining`` takes no further requests and goes with its last UEP; one that is ``held``,
    too, stays in the table then as ``stopped``, until an administrator starts it.
    """

    snapshot: EndpointSnapshot
    endpoint_id: str | None = None
    own_identities: tuple[str, ...] = ()
    online: bool = False
    reason: str = "not registered yet"
    draining: bool = False
    held: bool = False
    stopped: bool = False
    registered: bool = False
    by_hand: bool = False
    starts: int = 0
    failures: int = 0
    announced: bool = field(default=False, repr=False)
    kept_id: str | None = field(default=None, repr=False)
    files: FileBook = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self.files = FileBook(self.snapshot.directory, self.snapshot.versions)

    @property
    def state(self) -> str:
        """One word for mepctl status."""
        if self.stopped:
            return "stopped"
        if self.draining:
            return "draining"
        return "online" if self.online else "offline"

    @property
    def name(self) -> str:
        return self.snapshot.name


def remember_id(endpoint: Endpoint, endpoint_id: str) -> None:
    """Keep the registered id in the endpoint's folder, as globus-compute-endpoint does.

    Raises WireError for what is no id: mepd would not start with it another time. And for
    another one than it has, which no service gives and no worker may.
    """
    if (endpoint.endpoint_id or endpoint_id).lower() != endpoint_id.lower():
        raise WireError(f"{endpoint_id[:50]!r} is not the id of endpoint {endpoint.name}")
    if UUID.fullmatch(endpoint_id) is None:
        raise WireError(f"{endpoint_id[:50]!r} is no endpoint's id")
    endpoint.endpoint_id = endpoint_id
    if endpoint_id in (endpoint.snapshot.endpoint_id, endpoint.kept_id):
        return
    path = endpoint.snapshot.directory / "endpoint.json"
    temporary = path.with_name(".endpoint.json.new")
    try:
        fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
        with os.fdopen(fd, "w") as f:
            json.dump({"endpoint_id": endpoint_id}, f)
            f.flush()
            os.fsync(f.fileno())
        os.replace(temporary, path)
        endpoint.kept_id = endpoint_id
    except OSError as e:
        log.error("cannot keep the endpoint id of %s in %s: %s", endpoint.name, path, e)
