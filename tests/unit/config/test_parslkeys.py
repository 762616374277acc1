"""The tables of keys beside the signatures of the installed Parsl, and beside the peer's."""

from __future__ import annotations

import inspect
import typing
from collections.abc import Callable
from typing import Any

import parsl.addresses
import parsl.launchers
import parsl.providers
import pytest
from parsl.executors import HighThroughputExecutor, MPIExecutor
from parsl.executors.high_throughput.mpi_prefix_composer import VALID_LAUNCHERS
from parsl.jobs.job_status_poller import JobStatusPoller
from parsl.jobs.strategy import Strategy

from mepd.config import parslkeys
from mepd.config.parslkeys import Kind


def parameters(factory: Callable[..., Any]) -> dict[str, inspect.Parameter]:
    return dict(inspect.signature(factory).parameters)


def required(factory: Callable[..., Any]) -> set[str]:
    found = parameters(factory).values()
    return {p.name for p in found if p.default is inspect.Parameter.empty}


MODULES = (
    (parsl.providers, parslkeys.PROVIDERS),
    (parsl.launchers, parslkeys.LAUNCHERS),
    (parsl.addresses, parslkeys.ADDRESSES),
)
FACTORIES = [(m, name, kinds) for m, table in MODULES for name, kinds in table.items()]


@pytest.mark.parametrize("module, name, kinds", FACTORIES, ids=[f[1] for f in FACTORIES])
def test_keys_are_those_of_parsl(module: Any, name: str, kinds: dict[str, Kind]) -> None:
    factory = getattr(module, name)
    assert set(kinds) == set(parameters(factory))
    assert set(parslkeys.REQUIRED.get(name, ())) == required(factory)


def test_no_provider_launcher_or_address_is_missing() -> None:
    assert set(parslkeys.PROVIDERS) == set(parsl.providers.__all__)
    assert set(parslkeys.LAUNCHERS) == set(parsl.launchers.__all__)
    addresses = {
        name
        for name, value in vars(parsl.addresses).items()
        if inspect.isfunction(value) and value.__module__ == "parsl.addresses"
    }
    # one makes a URL, one a set, which is what an executor without an address has
    assert set(parslkeys.ADDRESSES) == addresses - {"tcp_url", "get_all_addresses"}


@pytest.mark.parametrize(
    "engine, executor",
    [("GlobusComputeEngine", HighThroughputExecutor), ("GlobusMPIEngine", MPIExecutor)],
)
def test_keys_of_executors(engine: str, executor: type) -> None:
    assert {*parslkeys.EXECUTORS[engine], "label"} == set(parameters(executor))
    assert not required(executor)


def test_strategies() -> None:
    assert set(parslkeys.JOB_STATUS) == set(parameters(JobStatusPoller))
    known = Strategy(strategy="none", max_idletime=1).strategies
    assert set(parslkeys.STRATEGIES) == set(known) - {None}
    assert parslkeys.MPI_LAUNCHERS == VALID_LAUNCHERS


EXAMPLES: dict[Kind, Any] = {
    Kind.INTEGER: 1,
    Kind.NUMBER: 1.5,
    Kind.TEXT: "x",
    Kind.SCALAR: "x",
    Kind.WALLTIME: "00:10:00",
    Kind.FLAG: True,
    Kind.TEXTS: ["x"],
    Kind.MAPPING: {"a": "b"},
    Kind.PORTS: (1, 2),
    Kind.ACCELERATORS: ["x"],
    Kind.VOLUMES: [("a", "b")],
}
TYPED = [
    *(getattr(parsl.providers, name) for name in parslkeys.TYPED),
    HighThroughputExecutor,
    MPIExecutor,
]


@pytest.mark.parametrize("factory", TYPED, ids=lambda f: f.__name__)
def test_kinds_are_the_annotated_types(factory: type) -> None:
    import typeguard

    tables = {**parslkeys.PROVIDERS, "HighThroughputExecutor": {}, "MPIExecutor": {}}
    kinds = tables[factory.__name__]
    if factory in (HighThroughputExecutor, MPIExecutor):
        mpi = factory is MPIExecutor
        kinds = parslkeys.EXECUTORS["GlobusMPIEngine" if mpi else "GlobusComputeEngine"]
    hints = typing.get_type_hints(factory.__init__)
    for key, kind in kinds.items():
        if kind in EXAMPLES:
            typeguard.check_type(EXAMPLES[kind], hints[key])
