"""When to try again: exponential delays with jitter, never more than half a minute."""

from __future__ import annotations

from dataclasses import dataclass

FIRST_S = 0.25
GROWTH = 1.5  # gentle: a broker of one's own takes seconds to come up
MAX_S = 30.0
STABLE_S = 10.0


def delay(attempt: int, jitter: float) -> float:
    """Seconds to wait before retry number ``attempt`` (from 0); ``jitter`` is in [0, 1).

    The spread, half of the delay, keeps many endpoints from coming back at one moment.
    """
    full = min(MAX_S, FIRST_S * GROWTH ** min(attempt, 32))
    return full * (0.5 + 0.5 * jitter)


@dataclass(frozen=True)
class Backoff:
    """How often in a row something has failed; a new value for every outcome."""

    attempt: int = 0

    def after_failure(self, lasted: float) -> Backoff:
        """The state after a failure of something that had worked for ``lasted`` seconds.

        Only what worked for a while starts anew: a link that breaks as soon as it is
        made is as bad as one that cannot be made.
        """
        return Backoff(1 if lasted >= STABLE_S else self.attempt + 1)

    def delay(self, jitter: float) -> float:
        """Seconds until the next try."""
        return delay(max(self.attempt - 1, 0), jitter)
