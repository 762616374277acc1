"""Importing those parts of Parsl that are used.

The packages parsl, parsl.executors and parsl.monitoring load every executor there is,
among them clients of web services and a database: 0.7 s instead of 0.2 s, in each of the
three processes that lie between a start and its first result.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
import types

_HOLLOW = ("parsl", "parsl.executors", "parsl.monitoring")
_EXECUTORS = {
    "HighThroughputExecutor": "parsl.executors.high_throughput.executor",
    "MPIExecutor": "parsl.executors.high_throughput.mpi_executor",
}


class _Executors(types.ModuleType):
    """Stands for parsl.executors; loads an executor when it is asked for."""

    def __getattr__(self, name: str) -> object:
        if name not in _EXECUTORS:
            raise AttributeError(name)
        return getattr(importlib.import_module(_EXECUTORS[name]), name)


def import_little() -> None:
    """Put packages without contents where those would load all; before Parsl's import.

    Of no effect after that. Raises ImportError if Parsl is not there.
    """
    if "parsl" in sys.modules:
        return
    for name in _HOLLOW:
        spec = importlib.util.find_spec(name)
        if spec is None or spec.submodule_search_locations is None:
            raise ImportError(f"no package {name}")
        module = (_Executors if name == "parsl.executors" else types.ModuleType)(name)
        module.__path__ = list(spec.submodule_search_locations)
        module.__spec__ = spec
        sys.modules[name] = module
        parent, _, child = name.rpartition(".")
        if parent:
            setattr(sys.modules[parent], child, module)
