"""Log lines that somebody outside can cause, few enough that they do not bury the others'."""

from __future__ import annotations

import logging
import time
from collections import OrderedDict
from collections.abc import Callable

EACH_MAX = 20
"""Lines about one sender in ``PERIOD_S`` seconds."""
PERIOD_S = 60.0
REMEMBERED = 10_000


class SparingLog:
    """Lines about a sender, ``EACH_MAX`` in ``PERIOD_S``; then one that tells how many more
    there were."""

    def __init__(self, log: logging.Logger, clock: Callable[[], float] = time.monotonic) -> None:
        self._log = log
        self._clock = clock
        self._seen: OrderedDict[str, tuple[float, int]] = OrderedDict()  # since when, how many

    def write(self, level: int, sender: str, text: str, *args: object) -> None:
        """As ``logging.Logger.log``."""
        now = self._clock()
        since, count = self._seen.pop(sender, (now, 0))
        if now - since >= PERIOD_S:
            if count > EACH_MAX:
                self._log.warning("%s: %d more such lines", sender, count - EACH_MAX)
            since, count = now, 0
        self._seen[sender] = since, count + 1
        while len(self._seen) > REMEMBERED:
            self._seen.popitem(last=False)
        if count < EACH_MAX:
            self._log.log(level, text, *args)
        elif count == EACH_MAX:
            self._log.warning("%s: more such lines are counted only", sender)
