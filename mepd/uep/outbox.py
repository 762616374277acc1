"""Results on their way: sent, or kept until the broker has confirmed them."""

from __future__ import annotations

import errno
import logging
import time
from collections.abc import Callable
from typing import Protocol

from mepd.errors import WireError
from mepd.uep import failures
from mepd.uep.results import ResultStore

log = logging.getLogger(__name__)

ALERT_EVERY = 60.0
AWAY_MAX = 64 * 1024 * 1024
"""Bytes of results that the broker is sent before it confirms any; one may exceed it alone."""
LASTING = (
    errno.ENOENT, errno.ELOOP, errno.EINVAL, errno.EISDIR, errno.ENXIO, errno.ENODEV,
    errno.EACCES, errno.EPERM,
)  # fmt: skip
"""What is wrong with a file for good; other errors are the disk's, which may be well again."""


class Alert:
    """Says what is wrong with the disk, once in a while."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._last = -ALERT_EVERY

    def __call__(self, text: str, error: OSError) -> None:
        now = self._clock()
        if now - self._last >= ALERT_EVERY:
            self._last = now
            log.error(text, error.strerror or error)


class Outlet(Protocol):
    """Where results go."""

    @property
    def results_up(self) -> bool: ...

    def publish_result(self, task_id: str, packed: bytes) -> bool: ...


class Outbox:
    """One result a task. ``outlet`` is set by the owner, before anything comes."""

    outlet: Outlet | None = None

    def __init__(self, endpoint_id: str, store: ResultStore, alert: Alert) -> None:
        self._endpoint_id = endpoint_id
        self._store = store
        self._alert = alert
        self._sending: dict[str, int] = {}
        self._away = 0
        self._held_back = False
        self._unsaved: dict[str, bytes] = {}

    def __contains__(self, task_id: str) -> bool:
        """Whether a result is kept."""
        return task_id in self._store or task_id in self._unsaved

    @property
    def unsent(self) -> int:
        """Results that wait for the broker."""
        return len(self._store.pending()) + len(self._unsaved)

    def put(self, task_id: str, packed: bytes) -> None:
        """Send a new result, or keep it while that cannot be."""
        if not self._has_room() or not self._publish(task_id, packed):
            self._keep(task_id, packed)

    def _has_room(self) -> bool:
        """Whether memory is to hold more of what the broker has yet to confirm."""
        self._held_back = self._away >= AWAY_MAX
        return not self._held_back

    def _publish(self, task_id: str, packed: bytes) -> bool:
        if self.outlet is None or not self.outlet.publish_result(task_id, packed):
            return False
        self._sending[task_id] = len(packed)
        self._away += len(packed)
        return True

    def _returned(self, task_id: str) -> None:
        """It is not on its way any more."""
        self._away -= self._sending.pop(task_id, 0)

    def _keep(self, task_id: str, packed: bytes) -> None:
        try:
            self._store.put(task_id, packed)
            self._unsaved.pop(task_id, None)
        except OSError as e:
            self._unsaved[task_id] = packed
            self._alert("a result cannot be kept on disk: %s", e)

    # --- the broker's events ----------------------------------------------------------
    def confirmed(self, task_id: str) -> None:
        self._returned(task_id)
        self._unsaved.pop(task_id, None)
        try:
            self._store.discard(task_id)
        except OSError as e:
            self._alert("a result that was sent stays on disk: %s", e)

    def unconfirmed(self, task_id: str, packed: bytes) -> None:
        """The broker may not have this result: keep it for another attempt."""
        self._returned(task_id)
        self.overdue(task_id, packed)

    def overdue(self, task_id: str, packed: bytes) -> None:
        """The broker is slow to confirm this result: it is not to die with this process."""
        if task_id not in self._store:
            self._keep(task_id, packed)

    def too_large(self, task_id: str, packed: bytes, limit: int) -> None:
        """The broker will never take this result: an error that says so takes its place."""
        log.warning("the result of task %s is larger than the broker's limit", task_id)
        self._returned(task_id)
        text = failures.too_large(len(packed), limit)
        details = failures.base_details(self._endpoint_id)
        self._keep(task_id, failures.error_result(task_id, failures.TOO_LARGE, text, details))

    def save(self) -> None:
        """Have on disk what the disk did not take before."""
        for task_id, packed in list(self._unsaved.items()):
            self._keep(task_id, packed)
            if task_id in self._unsaved:
                return

    def send_kept(self) -> None:
        """Send what waits on disk, or in memory when the disk is full."""
        if self.outlet is None or not self.outlet.results_up:
            return
        for task_id in [*self._store.pending(), *self._unsaved]:
            if not self._has_room():
                return
            packed = None if task_id in self._sending else self._kept(task_id)
            if packed is not None:
                self._publish(task_id, packed)

    def go_on(self) -> None:
        """Some are confirmed: send what was held back for them."""
        if self._held_back:
            self.send_kept()

    def _kept(self, task_id: str) -> bytes | None:
        """A result that waits; None if it may be had another time."""
        try:
            return self._unsaved.get(task_id) or self._store.get(task_id)
        except OSError as e:
            if e.errno in LASTING:
                return self._spoilt(task_id, e.strerror or str(e))
            self._alert("a result on disk cannot be read: %s", e)
            return None
        except WireError as e:
            return self._spoilt(task_id, str(e))

    def _spoilt(self, task_id: str, why: str) -> bytes:
        """Its future is not to wait for ever: the error that takes a result's place."""
        log.error("the result of task %s on disk is lost: %s", task_id, why)
        details = failures.base_details(self._endpoint_id)
        text = failures.result_lost(why)
        return failures.error_result(task_id, failures.RESULT_LOST, text, details)
