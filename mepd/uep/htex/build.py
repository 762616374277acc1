"""From the checked ``engine`` block to Parsl's objects."""

from __future__ import annotations

import importlib
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mepd.config.parslspec import ParslSpec, Part
from mepd.errors import ConfigError

_TUPLES = ("worker_port_range", "interchange_port_range")
_STOCK_POOL = re.compile(r"(?<![\w/.-])process_worker_pool\.py(?![\w.-])")
_DOCKER = ("docker", "podman", "podman-hpc")


def _make(where: str, module: str, part: Part, **more: Any) -> Any:
    """An object of Parsl's. Raises ConfigError with Parsl's reason."""
    try:
        factory: Callable[..., Any] = getattr(importlib.import_module(module), part.type)
        return factory(**part.arguments, **more)
    except Exception as e:
        raise ConfigError(f"{where}: {part.type}: {e or type(e).__name__}") from e


def _provider(spec: ParslSpec) -> Any:
    if spec.provider is None:
        return None
    more = {}
    if spec.launcher is not None:
        more["launcher"] = _make("engine.provider.launcher", "parsl.launchers", spec.launcher)
    arguments = dict(spec.provider.arguments)
    if "persistent_volumes" in arguments:
        arguments["persistent_volumes"] = [tuple(v) for v in arguments["persistent_volumes"]]
    part = Part(spec.provider.type, arguments)
    return _make("engine.provider", "parsl.providers", part, **more)


def _arguments(spec: ParslSpec) -> dict[str, Any]:
    arguments = dict(spec.executor)
    for key in _TUPLES:
        if key in arguments:
            arguments[key] = tuple(arguments[key])
    # as with globus-compute-endpoint, the interchange is always the one that came with us
    arguments.pop("interchange_launch_cmd", None)
    address = spec.address
    if isinstance(address, Part):
        address = _make("engine.address", "parsl.addresses", address)
    if address is not None:
        arguments["address"] = address
    provider = _provider(spec)
    if provider is not None:
        arguments["provider"] = provider
    return arguments


def containerized(spec: ParslSpec, folder: Path, command: str) -> str:
    """``command`` within the container that the configuration names, if it does."""
    kind, options = spec.container_type, spec.container_options or ""
    if kind is None:
        return command
    if kind == "custom":
        text = options.replace("{EXECUTOR_RUNDIR}", str(folder))
        text = text.replace("{EXECUTOR_LAUNCH_CMD}", command)
    elif kind in _DOCKER:
        text = f"{kind} run {options} -v {folder}:{folder} -t {spec.container_uri} {command}"
    else:
        text = f"{kind} run {options} {spec.container_uri} {command}"
    return " ".join(text.split())


def launch_command(stock: str, pool: str) -> str:
    """Parsl's launch command, with the command ``pool`` in the place of Parsl's."""
    escaped = pool.replace("{", "{{").replace("}", "}}")
    return " ".join(_STOCK_POOL.sub(lambda _: escaped, stock).split())


def build(spec: ParslSpec, classes: tuple[type, type], folder: Path, pool: str) -> Any:
    """The executor, not started; ``classes`` are those of the two engines.

    ``pool`` is the command that a block runs. Raises ConfigError.
    """
    cls = classes[1] if spec.mpi else classes[0]
    label = f"{spec.label}-{'MPIExecutor' if spec.mpi else 'HighThroughputExecutor'}"
    arguments = _arguments(spec)
    try:
        executor = cls(**arguments, label=label)
    except Exception as e:
        raise ConfigError(f"engine: {e or type(e).__name__}") from e
    executor.run_dir = str(folder)
    executor.provider.script_dir = str(folder / "submit_scripts")
    executor.interchange_launch_cmd = [sys.executable, "-P", "-m", "mepd.uep.htex.interchange"]
    command = launch_command(executor.launch_cmd, pool)
    executor.launch_cmd = containerized(spec, folder, command)
    # workers may have another Python or Parsl than we: worker_init chooses
    executor._check_python_mismatch = False
    return executor
