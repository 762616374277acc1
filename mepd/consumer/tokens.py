"""Tokens that name deliveries to the master.

A token carries the channel it belongs to: delivery tags start anew on each channel, so
an ack for an older one would settle a stranger's delivery.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

_TOKEN = re.compile(r"([0-9a-f]{1,16}-[0-9]{1,10}):([0-9]{1,19}):(.+)", re.DOTALL)


@dataclass(frozen=True)
class Token:
    """``generation`` is unique among all channels of all lives of this worker."""

    endpoint: str
    generation: str
    delivery_tag: int

    def __str__(self) -> str:
        return f"{self.generation}:{self.delivery_tag}:{self.endpoint}"


def parse(text: str) -> Token | None:
    """The inverse of ``str``; None for anything else."""
    match = _TOKEN.fullmatch(text)
    return Token(match[3], match[1], int(match[2])) if match else None
