"""Parsl's interchange, started with little of Parsl: ``python -P -m`` this module."""

from __future__ import annotations

import runpy

from mepd.uep.htex.lean import import_little

if __name__ == "__main__":
    import_little()
    runpy.run_module("parsl.executors.high_throughput.interchange", run_name="__main__")
