"""How many may ask at a time, and how often: no account takes another's place. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

PER_UID = 8
PER_ADMINISTRATOR = 32
TOTAL = 256
RATE = 20.0
BURST = 40.0
_BUCKETS_MAX = 4096


class Callers:
    """Connections by uid, and a bucket of requests for each: ``BURST`` at once, ``RATE`` a
    second. Administrators wait for nobody, and their places are their own."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._open: Counter[int] = Counter()
        self._ordinary = 0
        self._buckets: dict[int, tuple[float, float]] = {}

    def refusal(self, uid: int, administrator: bool) -> str | None:
        """Why a further connection of ``uid`` is not taken."""
        most = PER_ADMINISTRATOR if administrator else PER_UID
        if self._open[uid] >= most:
            return f"too many connections of uid {uid} (at most {most})"
        if not administrator and self._ordinary >= TOTAL:
            return f"too many connections (at most {TOTAL})"
        return None

    def came(self, uid: int, administrator: bool) -> None:
        self._open[uid] += 1
        self._ordinary += not administrator

    def left(self, uid: int, administrator: bool) -> None:
        self._open[uid] -= 1
        self._ordinary -= not administrator
        if self._open[uid] <= 0:
            del self._open[uid]

    def wait(self, uid: int, administrator: bool) -> float:
        """Seconds that a request of ``uid`` must wait for its turn; it counts from now on."""
        if administrator:
            return 0.0
        now = self._clock()
        tokens, at = self._buckets.get(uid, (BURST, now))
        tokens = min(BURST, tokens + (now - at) * RATE) - 1.0
        if len(self._buckets) >= _BUCKETS_MAX:
            self._forget(now)
        self._buckets[uid] = (tokens, now)
        return max(0.0, -tokens / RATE)

    def _forget(self, now: float) -> None:
        """Drop the buckets that are full again."""
        full = BURST / RATE
        self._buckets = {u: b for u, b in self._buckets.items() if now - b[1] < full}
