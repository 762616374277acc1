"""How often something may be done: at once, and for long. Pure."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class Bucket:
    """A token bucket: ``burst`` at once, ``rate`` a second for long. Times in seconds."""

    rate: float
    burst: float
    left: float
    since: float

    def take(self, now: float) -> bool:
        self.left = min(self.burst, self.left + (now - self.since) * self.rate)
        self.since = now
        if self.left < 1:
            return False
        self.left -= 1
        return True
