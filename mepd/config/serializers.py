"""The SDK's serialization strategies by name: only workers load the SDK.

A worker with a name that the SDK does not know ends while it starts, and cannot tell why.
A unit test holds that these are the strategies of the SDK that is installed.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from mepd.config.block import unknown
from mepd.errors import ConfigError

_MODULES = ("globus_compute_sdk.serialize", "globus_compute_sdk.serialize.concretes")
_CODE = (
    "AllCodeStrategies",
    "CombinedCode",
    "DEFAULT_STRATEGY_CODE",
    "DillCode",
    "DillCodeSource",
    "DillCodeTextInspect",
    "PureSourceDill",
    "PureSourceTextInspect",
)
_DATA = ("AllDataStrategies", "DEFAULT_STRATEGY_DATA", "DillDataBase64", "JSONData")
WILDCARDS = {"code": "globus_compute_sdk.*Code", "data": "globus_compute_sdk.*Data"}


def _paths(names: Iterable[str]) -> frozenset[str]:
    return frozenset(f"{module}.{name}" for module in _MODULES for name in names)


STRATEGIES = {"code": _paths(_CODE), "data": _paths(_DATA)}


def check(where: str, allowed: Sequence[str]) -> None:
    """Whether the SDK takes this as a list of what may be deserialized; empty is all.

    Raises ConfigError, with ``where`` the list stands.
    """
    known = {*WILDCARDS.values(), *STRATEGIES["code"], *STRATEGIES["data"]}
    for name in allowed:
        if name not in known:
            raise unknown(name, known, f"strategy in {where}:")
    for kind, wildcard in WILDCARDS.items() if allowed else ():
        single = not STRATEGIES[kind].isdisjoint(allowed)
        if single and wildcard in allowed:
            raise ConfigError(f"{where}: {wildcard!r} is all for {kind}; it stands alone")
        if not single and wildcard not in allowed:
            raise ConfigError(f"{where}: no strategy for {kind}; such as {wildcard!r}")
