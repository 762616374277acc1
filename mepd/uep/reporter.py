"""Telling others where we are: ps(1), mepd, and the service."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Any

from mepd.uep import idle
from mepd.uep.amqp import IOLoop
from mepd.config.uepconfig import UepConfig
from mepd.uep.document import Document
from mepd.uep.engines.base import Engine
from mepd.uep.notify import Notify
from mepd.uep.title import activity, title
from mepd.wire.activity import ActivityReport
from mepd.wire.message import StatusReport, pack_status

REPORT_EVERY = 1.0
"""Seconds between reports of movement, at least."""


class Reporter:
    """``ready`` and ``closing`` are set by the owner as its life goes on."""

    def __init__(
        self,
        loop: IOLoop,
        config: UepConfig,
        engine: Engine,
        movement: Callable[[], idle.Movement],
        show: Callable[[str], None],
    ) -> None:
        self.ready = False
        self.closing = False
        self.notify: Notify | None = None
        self.limits = idle.IdleLimits(config.heartbeat_period, config.idle_soft, config.idle_hard)
        self._loop = loop
        self._engine = engine
        self._movement = movement
        self._show = show
        self._last = 0.0
        self._timer: object | None = None

    def moved(self) -> None:
        """A task or result has moved: report it soon."""
        if self._timer is None and not self.closing:
            wait = max(0.0, self._last + REPORT_EVERY - time.monotonic())
            self._timer = self._loop.call_later(wait, self._on_timer)

    def _on_timer(self) -> None:
        self._timer = None
        if not self.closing:
            self.report()

    def report(self) -> None:
        """Set the title, and tell mepd once there is something to tell."""
        self._last = now = time.monotonic()
        moved = self._movement()
        self._show(self._state(moved, now))
        if self.notify is not None and (self.ready or self.closing):
            self.notify.report(
                ActivityReport(
                    received=moved.received,
                    outstanding=moved.outstanding,
                    done=moved.done,
                    last_move=max(0.0, now - moved.last_move),
                    soft=self.limits.soft,
                    hard=self.limits.hard,
                    heartbeat_period=self.limits.period,
                    closing=self.closing,
                )
            )

    def _state(self, moved: idle.Movement, now: float) -> str:
        if self.closing:
            return "stopping"
        if not self.ready:
            return "starting"
        beats = idle.beats(self.limits, moved, now)
        running = self._engine.running
        return activity(running, moved.outstanding, moved.done, beats, self.limits.soft)


def title_state(user: str, name: str, show: Callable[[str], None]) -> Callable[[str], None]:
    """``show`` for the changing part of this UEP's title."""
    return lambda state: show(title(user, name, state))


def status_message(
    document: Document, config: UepConfig, user: str, engine: dict[str, Any], active: bool
) -> bytes:
    """A packed status report; ``engine`` is Engine.status()."""
    state: dict[str, Any] = {
        **engine,
        **document.ep_info,
        "posix_username": user,
        "posix_uid": os.getuid(),
        "posix_gid": os.getgid(),
        "posix_pid": os.getpid(),
        "display_name": config.display_name,
        "heartbeat_period": config.heartbeat_period if active else 0,
        "active": active,
    }
    return pack_status(StatusReport(document.endpoint_id, state))
