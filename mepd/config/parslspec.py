"""What a checked ``engine`` block on Parsl asks for, as plain data for another process."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from typing import Any

from mepd.config import parslkeys

MPI = "GlobusMPIEngine"


@dataclass(frozen=True)
class Part:
    """An object to make: its class or function, and what it is given."""

    type: str
    arguments: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class ParslSpec:
    """``executor`` and ``poller`` are arguments of Parsl's HighThroughputExecutor (or
    MPIExecutor) and of its JobStatusPoller; None where Parsl's own default stands."""

    type: str
    label: str
    executor: dict[str, Any]
    poller: dict[str, Any]
    provider: Part | None = None
    launcher: Part | None = None
    address: Part | str | None = None
    container_type: str | None = None
    container_uri: str | None = None
    container_options: str | None = None

    @property
    def mpi(self) -> bool:
        return self.type == MPI

    @property
    def remote(self) -> bool:
        """Whether blocks may be where the user's files are not."""
        return (
            self.provider is not None
            and self.provider.type in parslkeys.REMOTE
            and self.container_type is None
        )


def dump(spec: ParslSpec) -> bytes:
    """``spec`` for :func:`load`, in another process."""
    return json.dumps(asdict(spec)).encode()


def load(data: bytes) -> ParslSpec:
    """What :func:`dump` wrote."""
    values = json.loads(data)
    for key in ("provider", "launcher", "address"):
        if type(values[key]) is dict:
            values[key] = Part(**values[key])
    return ParslSpec(**values)
