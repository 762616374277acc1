"""The one import of pika, without the parts that this program never uses.

pika/__init__ loads every adapter; asyncio alone would cost a third of this program's
start and three megabytes. The blocking and asyncio adapters are left out for good.
"""

from __future__ import annotations

import sys
import types

for _name, _class in (
    ("pika.adapters.asyncio_connection", "AsyncioConnection"),
    ("pika.adapters.blocking_connection", "BlockingConnection"),
):
    if _name not in sys.modules and "pika" not in sys.modules:
        _absent = types.ModuleType(_name)
        setattr(_absent, _class, type(_class, (), {}))
        sys.modules[_name] = _absent

from pika import BasicProperties, SelectConnection, URLParameters  # noqa: E402
from pika.adapters.select_connection import IOLoop  # noqa: E402
from pika.channel import Channel  # noqa: E402
from pika.exceptions import (  # noqa: E402
    AMQPError,
    ProbableAccessDeniedError,
    ProbableAuthenticationError,
)

__all__ = [
    "AMQPError",
    "BasicProperties",
    "Channel",
    "IOLoop",
    "ProbableAccessDeniedError",
    "ProbableAuthenticationError",
    "SelectConnection",
    "URLParameters",
]
