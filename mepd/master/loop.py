"""The master's loop: descriptors, timers and signals, one thread, no policy."""

from __future__ import annotations

import collections
import heapq
import itertools
import logging
import os
import selectors
import signal
import time
from collections.abc import Callable

log = logging.getLogger(__name__)

Callback = Callable[[], None]
_FAULTS_MAX = 50
_FAULTS_WINDOW = 10.0


class LoopFailure(Exception):
    """Callbacks fail over and over: going on would only burn the processor."""


class Timer:
    """A callback at a time; cancel() is safe at any moment."""

    __slots__ = ("callback", "when")

    def __init__(self, when: float, callback: Callback) -> None:
        self.when = when
        self.callback: Callback | None = callback

    def cancel(self) -> None:
        self.callback = None


class Loop:
    """A selectors loop. Signal handlers only note which it was; a wakeup descriptor feeds the
    loop, and may lose one where more arrive than a pipe has room for."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.clock = clock
        self._selector = selectors.DefaultSelector()
        self._timers: list[tuple[float, int, Timer]] = []
        self._order = itertools.count()
        self.turn_began = clock()
        self._running = False
        self._signals: dict[int, Callback] = {}
        self._arrived: dict[int, None] = {}
        self._faults: collections.deque[float] = collections.deque(maxlen=_FAULTS_MAX)
        self._wakeup_r, self._wakeup_w = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self.watch(self._wakeup_r, self._on_wakeup)

    # --- descriptors ------------------------------------------------------------------
    def watch(self, fd: int, readable: Callback | None, writable: Callback | None = None) -> None:
        """Call back when ``fd`` is ready; replaces what was watched for it before."""
        mask = (selectors.EVENT_READ if readable else 0) | (
            selectors.EVENT_WRITE if writable else 0
        )
        if not mask:
            self.forget(fd)
        elif fd in self._selector.get_map():
            self._selector.modify(fd, mask, (readable, writable))
        else:
            self._selector.register(fd, mask, (readable, writable))

    def forget(self, fd: int) -> None:
        if fd in self._selector.get_map():
            self._selector.unregister(fd)

    # --- timers -----------------------------------------------------------------------
    def call_later(self, delay: float, callback: Callback) -> Timer:
        """Call back once, ``delay`` seconds from now."""
        timer = Timer(self.clock() + delay, callback)
        heapq.heappush(self._timers, (timer.when, next(self._order), timer))
        return timer

    def call_every(self, period: float, callback: Callback) -> None:
        """Call back every ``period`` seconds for as long as the loop runs."""

        def again() -> None:
            self.call_later(period, again)
            callback()

        self.call_later(period, again)

    # --- signals ----------------------------------------------------------------------
    def on_signal(self, number: int, callback: Callback) -> None:
        """Call back in the loop, never in the handler; also for what comes before run()."""
        signal.set_wakeup_fd(self._wakeup_w, warn_on_full_buffer=False)
        self._signals[number] = callback
        signal.signal(number, lambda which, _: self._arrived.setdefault(which))

    def _on_wakeup(self) -> None:
        try:
            numbers = os.read(self._wakeup_r, 4096)
        except BlockingIOError:
            return
        noted, self._arrived = self._arrived, {}
        for number in dict.fromkeys([*numbers, *noted]):
            if number in self._signals:
                self._guarded(self._signals[number])

    # --- running ----------------------------------------------------------------------
    def run(self) -> None:
        """Run until stop(). Raises LoopFailure when callbacks fail without end."""
        self._running = True
        while self._running:
            self._turn()

    def stop(self) -> None:
        self._running = False

    def _turn(self) -> None:
        ready = self._selector.select(self._timeout())
        self.turn_began = self.clock()
        for key, mask in ready:
            readable, writable = key.data
            if mask & selectors.EVENT_READ and readable and self._is_current(key):
                self._guarded(readable)
            if mask & selectors.EVENT_WRITE and writable and self._is_current(key):
                self._guarded(writable)
        now = self.clock()
        while self._timers and self._timers[0][0] <= now:
            timer = heapq.heappop(self._timers)[2]
            if timer.callback is not None:
                self._guarded(timer.callback)

    def _is_current(self, key: selectors.SelectorKey) -> bool:
        """Whether an event still means what it meant when the turn began.

        An earlier callback of the turn may have closed the descriptor, and another may
        have been opened with its number.
        """
        now = self._selector.get_map().get(key.fd)
        return now is not None and now.data[0] == key.data[0]

    def _timeout(self) -> float | None:
        while self._timers and self._timers[0][2].callback is None:
            heapq.heappop(self._timers)
        return max(0.0, self._timers[0][0] - self.clock()) if self._timers else None

    def _guarded(self, callback: Callback) -> None:
        """Run a callback; its exception is logged and ends nothing but that callback."""
        try:
            callback()
        except Exception:
            log.exception("unexpected error in the master; going on")
            now = self.clock()
            self._faults.append(now)
            if len(self._faults) == _FAULTS_MAX and now - self._faults[0] < _FAULTS_WINDOW:
                raise LoopFailure(f"{_FAULTS_MAX} errors within {_FAULTS_WINDOW:g} s") from None
