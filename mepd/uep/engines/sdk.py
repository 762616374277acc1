"""The SDK's serializer without the SDK's client.

globus_compute_sdk/__init__ loads client and executor, and with them requests, pydantic and
globus_sdk: most of a worker's start and of its memory, and seldom of use to a task. Here the
package itself is loaded when something of it is first touched; its modules are as ever.
"""

from __future__ import annotations

import importlib.util
import sys
import threading
import types
from typing import Any

PACKAGE = "globus_compute_sdk"


class _LatePackage(types.ModuleType):
    """A package whose __init__ has yet to run; threads that touch it meanwhile wait."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self._mepd_lock = threading.RLock()
        self._mepd_loading = False

    def __getattr__(self, attribute: str) -> Any:
        with self._mepd_lock:
            if type(self) is _LatePackage and not self._mepd_loading:
                self._load()
            return types.ModuleType.__getattribute__(self, attribute)

    def _load(self) -> None:
        assert self.__spec__ is not None and self.__spec__.loader is not None
        self._mepd_loading = True
        try:
            self.__spec__.loader.exec_module(self)
            self.__class__ = types.ModuleType  # type: ignore[assignment]
        finally:
            self._mepd_loading = False


def import_late() -> None:
    """Called before anything of the SDK is imported; of no effect after that."""
    if PACKAGE in sys.modules:
        return
    spec = importlib.util.find_spec(PACKAGE)
    if spec is None:
        return
    package = _LatePackage(PACKAGE)
    package.__dict__.update(vars(importlib.util.module_from_spec(spec)))
    sys.modules[PACKAGE] = package
