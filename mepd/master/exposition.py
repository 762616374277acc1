"""The Prometheus text format (version 0.0.4), as far as mepd needs it. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

Labels = tuple[tuple[str, str], ...]


def labels(**values: str) -> Labels:
    return tuple(sorted(values.items()))


@dataclass
class Counter:
    """Values by labels, which only grow. ``name`` ends in _total."""

    name: str
    help: str
    values: dict[Labels, float] = field(default_factory=dict)
    kind: str = "counter"

    def add(self, amount: float = 1, **where: str) -> None:
        key = labels(**where)
        self.values[key] = self.values.get(key, 0) + amount

    def set(self, amount: float, **where: str) -> None:
        """For what is counted elsewhere."""
        self.values[labels(**where)] = amount

    def lines(self) -> Iterable[str]:
        for key, value in sorted(self.values.items()):
            yield f"{self.name}{_shown(key)} {_number(value)}"


def gauge(name: str, help: str, values: Mapping[Labels, float]) -> Counter:
    return Counter(name, help, dict(values), "gauge")


class Histogram:
    """How often a value was at most each bound, by labels; seconds."""

    kind = "histogram"

    def __init__(self, name: str, help: str, bounds: tuple[float, ...]) -> None:
        self.name = name
        self.help = help
        self._bounds = bounds
        self._counts: dict[Labels, list[int]] = {}
        self._sums: dict[Labels, float] = {}

    def observe(self, value: float, **where: str) -> None:
        key = labels(**where)
        counts = self._counts.setdefault(key, [0] * (len(self._bounds) + 1))
        for n, bound in enumerate(self._bounds):
            counts[n] += value <= bound
        counts[-1] += 1
        self._sums[key] = self._sums.get(key, 0.0) + value

    def lines(self) -> Iterable[str]:
        for key, counts in sorted(self._counts.items()):
            for bound, count in zip((*self._bounds, float("inf")), counts, strict=True):
                where = (*key, ("le", _number(bound)))
                yield f"{self.name}_bucket{_shown(where)} {count}"
            yield f"{self.name}_sum{_shown(key)} {_number(round(self._sums[key], 6))}"
            yield f"{self.name}_count{_shown(key)} {counts[-1]}"


def text(families: Iterable[Counter | Histogram]) -> str:
    """All families, each with its HELP and TYPE."""
    out = []
    for family in families:
        out.append(f"# HELP {family.name} {family.help}")
        out.append(f"# TYPE {family.name} {family.kind}")
        out += family.lines()
    return "\n".join(out) + "\n"


def _shown(key: Labels) -> str:
    if not key:
        return ""
    return "{" + ",".join(f'{name}="{_escaped(value)}"' for name, value in key) + "}"


def _escaped(value: str) -> str:
    value = value.encode("utf-8", "backslashreplace").decode()
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def _number(value: float) -> str:
    if value == float("inf"):
        return "+Inf"
    return str(int(value)) if value == int(value) else repr(value)
