"""Parsl's objects as plain data; runs in this Python and in globus-compute-endpoint's.

As a program: the ``engine`` block as JSON on stdin, the peer's objects of it on stdout.
"""

from __future__ import annotations

import json
import sys
from typing import Any

_OWN = ("launch_cmd", "interchange_launch_cmd", "_run_dir", "script_dir", "label")
_OURS = {"PoolExecutor": "HighThroughputExecutor", "MpiPoolExecutor": "MPIExecutor"}


def plain(value: Any, depth: int = 0) -> Any:
    """Classes and attributes, all the way down; what each process has of its own left out."""
    if value is None or isinstance(value, (str, int, float, bool)):
        return repr(value)
    if isinstance(value, (list, tuple)):
        return [type(value).__name__, *(plain(v, depth) for v in value)]
    if isinstance(value, (set, frozenset)):
        return sorted(map(repr, value))
    if isinstance(value, dict):
        return {str(k): plain(v, depth) for k, v in value.items()}
    name = _OURS.get(type(value).__name__, type(value).__name__)
    if callable(value) or not type(value).__module__.startswith(("parsl", "mepd")) or depth > 5:
        return name
    found = {k: plain(v, depth + 1) for k, v in sorted(vars(value).items()) if k not in _OWN}
    return {"class": name, **found}


def describe(executor: Any, poller: dict[str, Any]) -> dict[str, Any]:
    return {"executor": plain(executor), "poller": plain(poller), "label": executor.label}


def main() -> None:
    from globus_compute_endpoint.endpoint.config.dispatch import (  # type: ignore[import-not-found]
        EngineDispatcher,
    )

    for block in json.load(sys.stdin):
        try:
            engine = EngineDispatcher.build_instance(block)
            found = describe(engine.executor, engine._job_status_kwargs)
        except Exception as e:
            found = {"error": f"{type(e).__name__}: {e}"}
        print(json.dumps(found))


if __name__ == "__main__":
    main()
