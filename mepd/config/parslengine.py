"""The ``engine`` block of GlobusComputeEngine and GlobusMPIEngine, checked without Parsl.

What comes out is plain data of which mepd.uep.htex.build makes Parsl's objects, as
globus-compute-endpoint would of the same YAML.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from mepd.config import parslkeys
from mepd.config.block import is_number, unknown
from mepd.config.parslkeys import Kind
from mepd.config.parslspec import MPI, ParslSpec, Part
from mepd.errors import ConfigError

_AT_LEAST_ONE = (
    "nodes_per_block", "max_workers_per_node", "max_workers_per_block", "heartbeat_period",
    "heartbeat_threshold", "cmd_timeout", "poll_period", "status_batch_size",
)  # fmt: skip
_ABOVE_ZERO = ("cores_per_worker", "strategy_period", "interval", "timeout")
_LABEL = re.compile(r"[^/\x00-\x1f\x7f{}]{1,100}")
_TIME = re.compile(r"\d{1,4}:\d{1,2}:\d{1,2}")
_AFFINITY = re.compile(r"none|block|alternating|block-reverse|list:.+")
_MAX = 2**31


def _is_texts(value: Any) -> bool:
    return type(value) is list and all(type(v) is str for v in value)


def _is_mapping(value: Any) -> bool:
    return type(value) is dict and all(
        type(k) is str and (type(v) is str or is_number(v)) for k, v in value.items()
    )


def _is_ports(value: Any) -> bool:
    return (
        type(value) is list
        and len(value) == 2
        and all(type(v) is int and 0 < v < 65536 for v in value)
    )


def _is_integer(value: Any) -> bool:
    return type(value) is int and 0 <= value < _MAX


_CHECKS: dict[Kind, Callable[[Any], bool]] = {
    Kind.INTEGER: _is_integer,
    Kind.NUMBER: lambda v: is_number(v) and v >= 0,
    Kind.TEXT: lambda v: type(v) is str or is_number(v),
    Kind.SCALAR: lambda v: type(v) is str or is_number(v),
    Kind.WALLTIME: lambda v: (type(v) is str and v != "") or _is_integer(v),
    Kind.FLAG: lambda v: type(v) is bool,
    Kind.TEXTS: _is_texts,
    Kind.COMMAND: lambda v: type(v) is str or _is_texts(v),
    Kind.MAPPING: _is_mapping,
    Kind.PORTS: _is_ports,
    Kind.ACCELERATORS: lambda v: _is_integer(v) or _is_texts(v),
    Kind.VOLUMES: lambda v: type(v) is list and all(_is_texts(p) and len(p) == 2 for p in v),
    Kind.OBJECT: lambda v: v == [],
}


def _hours(seconds: int) -> str:
    return f"{seconds // 3600:02}:{seconds // 60 % 60:02}:{seconds % 60:02}"


def _value(where: str, key: str, kind: Kind, value: Any) -> Any:
    """A value of its kind, as Parsl takes it."""
    if not _CHECKS[kind](value):
        raise ConfigError(f"{where}{key}: needs {kind.value}, not {repr(value)[:80]}")
    if key in _AT_LEAST_ONE and value < 1 or key in _ABOVE_ZERO and value <= 0:
        raise ConfigError(f"{where}{key}: needs {kind.value} above 0, not {value}")
    if kind is Kind.TEXT:
        return str(value)
    return value


def _check_keys(
    where: str, name: str, values: Mapping[Any, Any], known: Mapping[str, Kind]
) -> None:
    for key in values:
        if key not in known:
            raise unknown(str(key), known, f"key at {where.rstrip('.')} ({name}):")


def _arguments(
    where: str, name: str, values: Mapping[str, Any], kinds: Mapping[str, Kind]
) -> dict[str, Any]:
    """The values that are given, of their kinds; empty ones of a template count as absent."""
    _check_keys(where, name, values, kinds)
    given = {k: v for k, v in values.items() if v is not None}
    for key in parslkeys.REQUIRED.get(name, ()):
        if key not in given:
            raise ConfigError(f"{where}{key}: missing; {name} needs it")
    return {k: _value(where, k, kinds[k], v) for k, v in given.items()}


def _typed(
    where: str, value: Any, tables: Mapping[str, Mapping[str, Kind]], what: str
) -> tuple[str, dict[str, Any]]:
    """The type of a block and the rest of it."""
    if type(value) is not dict:
        raise ConfigError(f"{where}: needs a block with a type, not {repr(value)[:80]}")
    name = value.get("type")
    if type(name) is not str:
        raise ConfigError(f"{where}.type: missing")
    if name not in tables:
        raise unknown(name, tables, f"{what} at {where}.type:")
    return name, {k: v for k, v in value.items() if k != "type"}


def _part(where: str, value: Any, tables: Mapping[str, Mapping[str, Kind]], what: str) -> Part:
    name, rest = _typed(where, value, tables, what)
    return Part(name, _arguments(f"{where}.", name, rest, tables[name]))


def _one_of(where: str, value: Any, known: tuple[str, ...]) -> None:
    if value not in known:
        raise ConfigError(f"{where}: needs one of {', '.join(known)}, not {repr(value)[:80]}")


def _walltime(provider: str, value: Any) -> Any:
    """YAML reads 1:00:00 as 3600; what Parsl computes with must be HH:MM:SS again."""
    if provider in (*parslkeys.MINUTES, *parslkeys.TYPED) and type(value) is int:
        value = _hours(value)
    if provider in parslkeys.MINUTES and not _TIME.fullmatch(value):
        raise ConfigError(
            f"engine.provider.walltime: needs {Kind.WALLTIME.value}, not {value[:80]!r}"
        )
    return value


def _provider(value: Any) -> tuple[Part | None, Part | None]:
    """The provider and its launcher; None where Parsl chooses."""
    if value is None:
        return None, None
    where = "engine.provider"
    name, rest = _typed(where, value, parslkeys.PROVIDERS, "provider")
    launcher = None
    if "launcher" in parslkeys.PROVIDERS[name] and rest.get("launcher") is not None:
        launcher = _part(f"{where}.launcher", rest["launcher"], parslkeys.LAUNCHERS, "launcher")
        del rest["launcher"]
    arguments = _arguments(f"{where}.", name, rest, parslkeys.PROVIDERS[name])
    if "walltime" in arguments:
        arguments["walltime"] = _walltime(name, arguments["walltime"])
    return Part(name, arguments), launcher


def _address(value: Any) -> Part | str | None:
    if value is None or type(value) is str:
        return value
    return _part("engine.address", value, parslkeys.ADDRESSES, "address")


def _poller(engine: Mapping[str, Any]) -> dict[str, Any]:
    """When blocks are added and given up; a ``strategy`` block is an older endpoint's."""
    found: dict[str, Any] = {"strategy": "simple", "max_idletime": 120.0, "strategy_period": 5.0}
    strategy = engine.get("strategy")
    if type(strategy) is dict:
        where = "engine.strategy"
        tables = {name: parslkeys.STRATEGY_KEYS for name in parslkeys.STRATEGY_BLOCKS}
        given = dict(_part(where, strategy, tables, "strategy").arguments)
        if "interval" in given:
            given["strategy_period"] = given.pop("interval")
        found.update(given)
    elif strategy is not None:
        found["strategy"] = strategy
    more = engine.get("job_status_kwargs")
    if more is not None:
        if type(more) is not dict:
            raise ConfigError(f"engine.job_status_kwargs: needs a block, not {repr(more)[:80]}")
        found.update(
            _arguments("engine.job_status_kwargs.", "job_status_kwargs", more, parslkeys.JOB_STATUS)
        )
    _one_of("engine.strategy", found["strategy"], parslkeys.STRATEGIES)
    return found


def _check_container(own: Mapping[str, Any], provider: Part | None) -> None:
    kind, uri = own.get("container_type"), own.get("container_uri")
    if kind is not None:
        _one_of("engine.container_type", kind, parslkeys.CONTAINERS)
    if uri and provider is not None and provider.type in parslkeys.OWN_CONTAINERS:
        raise ConfigError(
            f"engine.container_uri: cannot be used with {provider.type}, whose blocks are"
            " containers or machines of their own"
        )
    if kind == "custom" and not own.get("container_cmd_options"):
        raise ConfigError("engine.container_cmd_options: missing; container_type custom needs it")
    if kind not in (None, "custom") and not uri:
        raise ConfigError(f"engine.container_uri: missing; container_type {kind} needs it")


def _check_executor(executor: Mapping[str, Any]) -> None:
    affinity = executor.get("cpu_affinity", "none")
    if not _AFFINITY.fullmatch(affinity):
        raise ConfigError(
            "engine.cpu_affinity: needs none, block, block-reverse, alternating or list:...,"
            f" not {affinity[:80]!r}"
        )
    for key in ("worker_port_range", "interchange_port_range"):
        low, high = executor.get(key, (0, 1))
        if low >= high:
            raise ConfigError(f"engine.{key}: the first port must be below the second")


def _check_mpi(executor: Mapping[str, Any], launcher: Part | None) -> None:
    _one_of("engine.mpi_launcher", executor.get("mpi_launcher", "srun"), parslkeys.MPI_LAUNCHERS)
    if launcher is None or launcher.type != "SimpleLauncher":
        raise ConfigError(f"engine.provider.launcher: {MPI} needs one of type SimpleLauncher")


def check(engine: dict[str, Any]) -> ParslSpec:
    """What an ``engine`` block of one of the two types asks for. Raises ConfigError."""
    name = str(engine["type"])
    if name != MPI and (engine.get("enable_mpi_mode") or engine.get("mpi_launcher")):
        raise ConfigError(f"engine: MPI mode is not supported on {name}; use {MPI} instead")
    kinds = parslkeys.EXECUTORS[name]
    blocks = dict.fromkeys(("type", "strategy", "job_status_kwargs"), Kind.OBJECT)
    _check_keys("engine.", name, engine, {**kinds, **parslkeys.ENGINE, **blocks})
    provider, launcher = _provider(engine.get("provider"))
    own = _arguments(
        "engine.", name, {k: engine.get(k) for k in parslkeys.ENGINE}, parslkeys.ENGINE
    )
    plain = {k: v for k, v in engine.items() if k in kinds and k not in ("provider", "address")}
    executor = _arguments("engine.", name, plain, kinds)
    label = own.get("label") or name
    if not _LABEL.fullmatch(label):
        raise ConfigError(f"engine.label: needs a plain name, not {label[:80]!r}")
    _check_container(own, provider)
    _check_executor(executor)
    if name == MPI:
        _check_mpi(executor, launcher)
    return ParslSpec(
        type=name,
        label=label,
        executor={"encrypted": True, **executor},
        poller=_poller(engine),
        provider=provider,
        launcher=launcher,
        address=_address(engine.get("address")),
        container_type=own.get("container_type"),
        container_uri=own.get("container_uri"),
        container_options=own.get("container_cmd_options"),
    )
