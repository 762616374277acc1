"""Keeping out of this program what it seldom or never uses.

pika/__init__ loads every adapter and ssl; asyncio alone would cost a third of this
program's start and three megabytes, ssl another four. The blocking and asyncio adapters
are left out. Other modules are loaded when they are first touched: ssl by an amqps URL,
inspect and what it needs by a dataclass without a docstring, and so on.
"""

from __future__ import annotations

import os
import sys
import types
from typing import Any

LATE = (
    "ast", "calendar", "decimal", "inspect", "ipaddress", "platform", "random", "ssl",
    "subprocess", "textwrap", "tokenize", "uuid",
)  # fmt: skip


class _Late(types.ModuleType):
    """Stands for a module until something of it is wanted, then holds all that it holds."""

    def __getattr__(self, attribute: str) -> Any:
        if attribute.startswith("__"):
            raise AttributeError(attribute)
        name = self.__name__
        if sys.modules.get(name) is self:
            del sys.modules[name]
        __import__(name)
        self.__dict__.update(vars(sys.modules[name]))
        return self.__dict__[attribute]


class _LateSsl(_Late):
    """A plain connection asks only whether its absent context is an SSLContext."""

    SSLContext: Any = type("SSLContext", (), {})


class _LatePlatform(_Late):
    """pika asks for Linux's version, and tells the broker Python's."""

    @staticmethod
    def release() -> str:
        return os.uname().release

    @staticmethod
    def python_version() -> str:
        return ".".join(map(str, sys.version_info[:3]))


_LATE_TYPES = {"ssl": _LateSsl, "platform": _LatePlatform}


def _absent(name: str, attribute: str) -> None:
    """Have an import of ``attribute`` from ``name`` succeed without loading it."""
    module = types.ModuleType(name)
    setattr(module, attribute, type(attribute, (), {}))
    sys.modules[name] = module


def import_little() -> None:
    """Called before anything else is imported; of no effect on what is there already."""
    for name in LATE:
        sys.modules.setdefault(name, _LATE_TYPES.get(name, _Late)(name))
    if "pika" not in sys.modules:
        _absent("pika.adapters.asyncio_connection", "AsyncioConnection")
        _absent("pika.adapters.blocking_connection", "BlockingConnection")
