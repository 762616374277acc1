"""The idle clock on the loop: one timer, never later than the deadline."""

from __future__ import annotations

import time
from collections.abc import Callable

from mepd.uep import idle
from mepd.uep.amqp import IOLoop


class IdleTimer:
    """Calls ``on_idle`` once, when ``movement()`` has reached a limit.

    The timer is not moved with every task: one that fires early looks again.
    """

    def __init__(
        self,
        loop: IOLoop,
        limits: idle.IdleLimits,
        movement: Callable[[], idle.Movement],
        on_idle: Callable[[idle.Limit], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """``clock`` is that of ``movement()`` and of the loop's timers."""
        self._loop = loop
        self._limits = limits
        self._movement = movement
        self._on_idle = on_idle
        self._clock = clock
        self._timer: tuple[float, object] | None = None

    def arm(self) -> None:
        """Have a timer for the deadline or before; call it when the deadline may be nearer."""
        found = idle.deadline(self._limits, self._movement())
        if found is None:
            return
        when = found[0]
        if self._timer is not None:
            if self._timer[0] <= when:
                return
            self._loop.remove_timeout(self._timer[1])
        wait = max(0.0, when - self._clock())
        self._timer = (when, self._loop.call_later(wait, self._look))

    def _look(self) -> None:
        self._timer = None
        found = idle.deadline(self._limits, self._movement())
        if found is not None and self._clock() >= found[0]:
            self._on_idle(found[1])
        else:
            self.arm()
