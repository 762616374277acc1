"""Which cores and which accelerator a worker has; the rules and names are Parsl's."""

from __future__ import annotations

from collections.abc import Sequence


def _listed(ranks: Sequence[str], rank: int) -> list[int]:
    cores: list[int] = []
    for part in ranks[rank].split(","):
        low, _, high = part.partition("-")
        cores += range(int(low), int(high or low) + 1)
    return cores


def cores(affinity: str, available: Sequence[int], rank: int, count: int) -> list[int]:
    """The cores of worker ``rank`` of ``count``; [] for all.

    Raises ValueError for an affinity that cannot be had.
    """
    if affinity == "none":
        return []
    if affinity.startswith("list"):
        ranks = affinity.split(":")[1:]
        if len(ranks) != count:
            raise ValueError(f"cpu_affinity: {len(ranks)} lists of cores for {count} workers")
        return _listed(ranks, rank)
    each, ordered = len(available) // count, sorted(available)
    if not each:
        raise ValueError(f"cpu_affinity: {count} workers for {len(available)} cores")
    if affinity == "alternating":
        return ordered[rank::count]
    place = count - rank - 1 if affinity == "block-reverse" else rank
    return ordered[each * place : each * (place + 1)]


def core_variables(chosen: Sequence[int]) -> dict[str, str]:
    """What OpenMP is told of a worker's cores."""
    if not chosen:
        return {}
    listed = ",".join(map(str, chosen))
    return {
        "OMP_NUM_THREADS": str(len(chosen)),
        "GOMP_CPU_AFFINITY": listed,
        "KMP_AFFINITY": f"explicit,proclist=[{listed}]",
    }


def accelerator_variables(name: str | None, count: int, devices: int | None) -> dict[str, str]:
    """What the libraries of accelerators are told.

    ``devices`` is how many NVIDIA GPUs there are, which several workers may share; None if
    that is unknown.
    """
    if name is None:
        return {}
    cuda = name
    if devices and name.isdigit() and count >= devices:
        cuda = str(int(name) // (count // devices))
    return {
        "CUDA_VISIBLE_DEVICES": cuda,
        "ROCR_VISIBLE_DEVICES": name,
        "ZE_AFFINITY_MASK": name,
        "ZE_ENABLE_PCI_ID_DEVICE_ORDER": "1",
    }
