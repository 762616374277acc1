"""Samples, and the table made of them."""

from __future__ import annotations

import statistics
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from typing import Any

SIDES = ("mepd", "peer", "floor")
Samples = dict[str, list[float]]


@dataclass
class Line:
    """One figure: its unit, the number to reach, and what each side has measured."""

    row: str
    name: str
    unit: str
    goal: float | None = None
    more_is_better: bool = False
    samples: Samples = field(default_factory=dict)

    def median(self, side: str) -> float | None:
        found = self.samples.get(side)
        return statistics.median(found) if found else None

    def spread(self, side: str) -> float | None:
        """Half the distance between the least and the greatest sample."""
        found = self.samples.get(side)
        return (max(found) - min(found)) / 2 if found else None

    def ratio(self, other: str) -> float | None:
        """How many times better than ``other`` mepd is; below 1, how much worse."""
        ours, theirs = self.median("mepd"), self.median(other)
        if not ours or not theirs:
            return None
        return ours / theirs if self.more_is_better else theirs / ours

    def record(self) -> dict[str, Any]:
        """For JSON."""
        sides = {s: {"median": self.median(s), "spread": self.spread(s)} for s in self.samples}
        return {**asdict(self), "sides": sides, "ratio": self.ratio("peer")}


def _number(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _with_spread(line: Line, side: str) -> str:
    if line.median(side) is None:
        return "-"
    text = _number(line.median(side))
    return f"{text} ±{_number(line.spread(side))}" if len(line.samples[side]) > 1 else text


def table(lines: Iterable[Line]) -> str:
    """Markdown; "ratio" is how many times better than the peer, "to floor" than the floor."""
    rows = [["row", "what", "unit", "goal", "floor", "mepd", "peer", "ratio", "to floor"]]
    for line in lines:
        sides = [_with_spread(line, side) for side in ("floor", "mepd", "peer")]
        ratios = [_number(line.ratio(other)) for other in ("peer", "floor")]
        rows.append([line.row, line.name, line.unit, _number(line.goal), *sides, *ratios])
    widths = [max(len(r[i]) for r in rows) for i in range(len(rows[0]))]
    text = ["| " + " | ".join(c.ljust(w) for c, w in zip(r, widths)) + " |" for r in rows]
    text.insert(1, "|" + "|".join("-" * (w + 2) for w in widths) + "|")
    return "\n".join(text)
