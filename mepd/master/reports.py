"""What UEPs say of themselves. They are their users' programs: hostile until proven dull."""

from __future__ import annotations

import logging
import socket
from collections.abc import Callable
from typing import Any

from mepd.errors import WireError
from mepd.master.bucket import Bucket
from mepd.master.channel import Channel
from mepd.master.loop import Loop
from mepd.master.stopping import Stopper
from mepd.master.table import Uep
from mepd.model import Activity, UepState
from mepd.wire import codec
from mepd.wire.framing import NOTIFY_FRAME_MAX
from mepd.wire.activity import FROM_UEP

log = logging.getLogger(__name__)

BROKE_PROTOCOL = "broke the protocol"
"""Why such a UEP is stopped."""
_COUNT_MAX = 2**53
_SECONDS_MAX = 1e9
_PERIOD_MIN, _PERIOD_MAX = 0.1, 86400.0


def activity(report: Any) -> Activity:
    """The report, if a UEP in its senses can have sent it. Raises WireError.

    A period of a year would be a way never to be found silent; in one that is next to nothing
    idleness is counted by a number that nothing can show.
    """
    values = {k: v for k, v in codec.encode(report).items() if k != "kind"}
    for name in ("received", "outstanding", "done", "soft", "hard"):
        if not 0 <= values[name] <= _COUNT_MAX:
            raise WireError(f"{name} is out of range")
    if not 0 <= values["last_move"] <= _SECONDS_MAX:
        raise WireError("last_move is out of range")
    if not _PERIOD_MIN <= values["heartbeat_period"] <= _PERIOD_MAX:
        raise WireError("heartbeat_period is out of range")
    return Activity(**values)


class Reports:
    """Listens to UEPs; ``first`` is called with each report of one that was not running,
    unless it says that it closes: then it never was ready.

    One that says what no UEP says, or speaks without end, is listened to no longer and
    stopped: it could only keep the master busy.
    """

    RATE = 50.0
    BURST = 500.0

    def __init__(self, loop: Loop, stopper: Stopper, first: Callable[[Uep], None]) -> None:
        self._loop = loop
        self._stopper = stopper
        self._first = first

    def listen(self, uep: Uep, sock: socket.socket) -> None:
        bucket = Bucket(self.RATE, self.BURST, self.BURST, self._loop.clock())
        uep.notify = Channel(
            self._loop,
            sock,
            lambda frame: self._on_report(uep, frame, bucket),
            lambda reason: self._on_closed(uep, reason),
            NOTIFY_FRAME_MAX,
        )

    def _on_report(self, uep: Uep, frame: Any, bucket: Bucket) -> None:
        """Raises WireError, which closes the channel."""
        if not bucket.take(self._loop.clock()):
            raise WireError("it reports without end")
        uep.activity = activity(codec.decode(frame, FROM_UEP))
        uep.reported = self._loop.clock()
        if uep.state in (UepState.LAUNCHING, UepState.STARTING) and not uep.activity.closing:
            self._first(uep)

    def _on_closed(self, uep: Uep, reason: str) -> None:
        uep.notify = None
        self._stopper.wake(uep)
        if reason:
            log.warning("user endpoint broke the protocol: %s %s", reason, uep.label)
            self._stopper.stop(uep, f"{BROKE_PROTOCOL}: {reason}")
