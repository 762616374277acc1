"""Resource specifications of tasks, by the rules of Parsl's executors.

Checked before a task leaves the UEP: what Parsl cannot use it waits for without end.
"""

from __future__ import annotations

from typing import Any

_MPI_KEYS = ("num_nodes", "num_ranks", "ranks_per_node", "launcher_options")
_TEXT_MAX = 4096


def _unknown(keys: set[str], text: str) -> str:
    return f"Invalid Resource Specification Supplied: {keys}. {text}".strip()


def refuse_plain(resources: dict[str, Any]) -> str | None:
    """Why GlobusComputeEngine cannot serve a specification; None if it can."""
    unknown = set(resources) - {"priority"}
    if unknown:
        return _unknown(
            unknown,
            "Task resource specification only accepts these types of resources: priority."
            "  For MPI apps, use GlobusMPIEngine.",
        )
    priority = resources.get("priority", 0)
    if type(priority) not in (int, float) or priority != priority:
        return f"resource_specification: priority needs a number, not {priority!r:.80}"
    return None


def _count(value: Any) -> int | None:
    """A positive whole number, also as a string; None for anything else."""
    if type(value) is str and value.isascii() and value.isdigit() and len(value) < 10:
        value = int(value)
    return value if type(value) is int and 0 < value < 10**9 else None


def refuse_mpi(resources: dict[str, Any], nodes_per_block: int) -> str | None:
    """Why GlobusMPIEngine cannot serve a specification; None if it can."""
    if not resources:
        return _unknown(set(), "MPI mode requires a resource_specification, such as num_nodes")
    unknown = set(resources) - set(_MPI_KEYS)
    if unknown:
        return _unknown(unknown, f"Known are {', '.join(_MPI_KEYS)}")
    for key in _MPI_KEYS[:3]:
        if resources.get(key) is not None and _count(resources[key]) is None:
            return f"resource_specification: {key} needs a whole number, not {resources[key]!r:.80}"
    options = resources.get("launcher_options") or ""
    if type(options) is not str or len(options) > _TEXT_MAX:
        return "resource_specification: launcher_options needs a string"
    nodes = _count(resources.get("num_nodes"))
    if nodes is None:
        return "resource_specification: num_nodes is missing"
    if nodes > nodes_per_block:
        return f"resource_specification: {nodes} nodes, but a block has {nodes_per_block}"
    return None


def complete_mpi(resources: dict[str, Any]) -> dict[str, Any]:
    """A good specification with ranks and nodes in numbers; one follows from the others."""
    nodes = _count(resources["num_nodes"]) or 1
    ranks, each = _count(resources.get("num_ranks")), _count(resources.get("ranks_per_node"))
    if ranks is None:
        ranks = nodes * (each or 1)
    if each is None:
        each = -(-ranks // nodes)
    more = {"launcher_options": resources.get("launcher_options") or ""}
    return {"num_nodes": nodes, "num_ranks": ranks, "ranks_per_node": each, **more}
