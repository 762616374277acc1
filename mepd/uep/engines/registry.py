"""The engine that a configuration names. An engine's module is loaded when it is chosen."""

from __future__ import annotations

from mepd.uep.amqp import IOLoop

from mepd.errors import ConfigError
from mepd.config.uepconfig import PROCESSES, THREADS, EngineConfig
from mepd.uep.engines.base import Engine, EngineContext, EngineEvents


def make(
    config: EngineConfig, context: EngineContext, events: EngineEvents, loop: IOLoop
) -> Engine:
    """Raises ConfigError for a type that no engine serves."""
    if config.type in (THREADS, PROCESSES):
        from mepd.uep.engines.pool import PoolEngine

        return PoolEngine(config, context, events, loop)
    if config.parsl is not None:
        from mepd.uep.engines.htex import HtexEngine

        return HtexEngine(config, context, events, loop)
    raise ConfigError(f"engine.type: no engine serves {config.type!r}")
