"""Keeping out of this program what it seldom or never uses.

pika/__init__ loads every adapter and ssl; asyncio alone would cost a third of this
program's start and three megabytes, ssl another four. The blocking and asyncio adapters
are left out, and ssl is loaded when it is first touched, by an amqps URL.
"""

from __future__ import annotations

import importlib
import sys
import types
from typing import Any


class _LateSsl(types.ModuleType):
    """Stands for ssl until TLS is wanted, then holds all that ssl holds.

    A plain connection asks only whether its absent context is an SSLContext.
    """

    SSLContext: Any = type("SSLContext", (), {})

    def __getattr__(self, attribute: str) -> Any:
        sys.modules.pop("ssl", None)
        self.__dict__.update(vars(importlib.import_module("ssl")))
        return self.__dict__[attribute]


def _absent(name: str, attribute: str) -> None:
    """Have an import of ``attribute`` from ``name`` succeed without loading it."""
    module = types.ModuleType(name)
    setattr(module, attribute, type(attribute, (), {}))
    sys.modules[name] = module


def import_little() -> None:
    """Called by the program before pika is imported; of no effect after that."""
    if "pika" not in sys.modules:
        sys.modules.setdefault("ssl", _LateSsl("ssl"))
        _absent("pika.adapters.asyncio_connection", "AsyncioConnection")
        _absent("pika.adapters.blocking_connection", "BlockingConnection")
