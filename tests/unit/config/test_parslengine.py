"""The engine block of the engines on Parsl: what is taken, what is refused and how."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
import yaml

from mepd.config import parslspec, uepconfig
from mepd.config.parslspec import Part
from mepd.errors import ConfigError

POLARIS = """
display_name: Polaris at ALCF - debug-scaling queue
engine:
  type: GlobusComputeEngine
  address:
    type: address_by_interface
    ifname: bond0
  strategy:
    type: SimpleStrategy
    max_idletime: 30
  provider:
    type: PBSProProvider
    queue: debug-scaling
    account: allocation
    worker_init:
    init_blocks: 0
    min_blocks: 0
    max_blocks: 1
    nodes_per_block: 2
    walltime: 1:00:00
    launcher:
      type: MpiExecLauncher
idle_heartbeats_soft: 10
idle_heartbeats_hard: 5760
"""


def engine(text: str) -> uepconfig.EngineConfig:
    return uepconfig.parse(text).engine


def compute(**keys: Any) -> dict[str, Any]:
    block = {"type": "GlobusComputeEngine", "provider": {"type": "LocalProvider"}, **keys}
    return {"engine": {k: v for k, v in block.items() if v is not ...}}


def mpi(**keys: Any) -> dict[str, Any]:
    provider = {"type": "SlurmProvider", "launcher": {"type": "SimpleLauncher"}}
    return compute(type="GlobusMPIEngine", **{"provider": provider, **keys})


def test_the_manuals_example() -> None:
    spec = engine(POLARIS).parsl
    assert spec is not None
    assert spec.provider == Part(
        "PBSProProvider",
        {
            "queue": "debug-scaling",
            "account": "allocation",
            "init_blocks": 0,
            "min_blocks": 0,
            "max_blocks": 1,
            "nodes_per_block": 2,
            "walltime": 3600,
        },
    )
    assert spec.launcher == Part("MpiExecLauncher")
    assert spec.address == Part("address_by_interface", {"ifname": "bond0"})
    assert spec.poller == {"strategy": "simple", "max_idletime": 30, "strategy_period": 5.0}
    assert spec.label == "GlobusComputeEngine" and spec.executor == {"encrypted": True}


def test_it_crosses_to_another_process_unchanged() -> None:
    for text in (POLARIS, yaml.safe_dump(compute(address="10.0.0.1")), yaml.safe_dump(mpi())):
        spec = engine(text).parsl
        assert spec is not None and parslspec.load(parslspec.dump(spec)) == spec


def test_parsl_is_not_imported_by_who_checks() -> None:
    code = (
        "import sys; from mepd.config import uepconfig; uepconfig.parse(sys.stdin.read());"
        "sys.exit(any(m.partition('.')[0] in ('parsl', 'zmq') for m in sys.modules))"
    )
    assert not subprocess.run([sys.executable, "-c", code], input=POLARIS, text=True).returncode


@pytest.mark.parametrize(
    ("config", "workers"),
    [
        (compute(max_workers_per_node=3), 3),
        (
            compute(
                max_workers_per_node=3,
                provider={"type": "SlurmProvider", "nodes_per_block": 2, "max_blocks": 5},
            ),
            30,
        ),
        (compute(available_accelerators=["0", "1"], max_workers_per_node=8), 2),
        (
            compute(
                cores_per_worker=4, provider={"type": "SlurmProvider", "cores_per_node": 64}
            ),
            16,
        ),
        (mpi(max_workers_per_block=4), 4),
        (compute(max_workers_per_node=10**6), uepconfig.WORKERS_MAX),
    ],
)
def test_how_many_tasks_are_taken(config: dict[str, Any], workers: int) -> None:
    assert uepconfig.check(config).engine.max_workers == workers


def test_own_keys() -> None:
    found = uepconfig.check(
        compute(
            label="Midway@RCC",
            max_retries_on_system_failure=2,
            run_in_sandbox=True,
            working_dir="/scratch/me",
            allowed_serializers=["globus_compute_sdk.*Code", "globus_compute_sdk.*Data"],
            job_status_kwargs={"max_idletime": 300, "strategy": "htex_auto_scale"},
        )
    ).engine
    assert found.parsl is not None and found.parsl.label == "Midway@RCC"
    assert found.retries == 2 and found.sandbox and found.working_dir == "/scratch/me"
    assert found.allowed_serializers == ("globus_compute_sdk.*Code", "globus_compute_sdk.*Data")
    assert found.parsl.executor["working_dir"] == "/scratch/me"
    assert found.parsl.poller == {
        "strategy": "htex_auto_scale",
        "max_idletime": 300,
        "strategy_period": 5.0,
    }


@pytest.mark.parametrize(
    ("provider", "given", "wanted"),
    [
        ("SlurmProvider", 3600, "01:00:00"),
        ("SlurmProvider", "1:2:03", "1:2:03"),
        ("LSFProvider", 90061, "25:01:01"),
        ("CondorProvider", 60, "00:01:00"),
        ("PBSProProvider", 3600, 3600),
        ("TorqueProvider", "1:00:00", "1:00:00"),
    ],
)
def test_walltime_as_yaml_reads_it(provider: str, given: Any, wanted: Any) -> None:
    config = compute(provider={"type": provider, "walltime": given})
    spec = uepconfig.check(config).engine.parsl
    assert spec is not None and spec.provider is not None
    assert spec.provider.arguments["walltime"] == wanted


def slurm(**keys: Any) -> dict[str, Any]:
    return compute(provider={"type": "SlurmProvider", **keys})


@pytest.mark.parametrize(
    ("config", "words"),
    [
        (compute(max_workers=2), ["engine", "'max_workers'", "'max_workers_per_node'"]),
        (compute(provider="Local"), ["engine.provider", "block with a type", "'Local'"]),
        (compute(provider={}), ["engine.provider.type: missing"]),
        (compute(provider={"type": "SlumProvider"}), ["'SlumProvider'", "'SlurmProvider'"]),
        (slurm(partitions="a"), ["engine.provider", "'partitions'", "'partition'"]),
        (slurm(nodes_per_block="2"), ["engine.provider.nodes_per_block", "whole number", "'2'"]),
        (slurm(nodes_per_block=0), ["engine.provider.nodes_per_block", "above 0"]),
        (slurm(exclusive="no"), ["engine.provider.exclusive", "true or false"]),
        (slurm(walltime="ten"), ["engine.provider.walltime", "HH:MM:SS", "'ten'"]),
        (slurm(launcher={"type": "SrunLauncer"}), ["provider.launcher.type", "'SrunLauncher'"]),
        (slurm(launcher="SrunLauncher"), ["engine.provider.launcher", "block with a type"]),
        (
            slurm(launcher={"type": "SrunLauncher", "override": "-c 2"}),
            ["engine.provider.launcher", "'override'", "'overrides'"],
        ),
        (
            slurm(launcher={"type": "WrappedLauncher"}),
            ["engine.provider.launcher.prepend: missing", "WrappedLauncher"],
        ),
        (compute(address={"type": "address_by_iface"}), ["'address_by_interface'"]),
        (compute(address={"type": "address_by_interface"}), ["engine.address.ifname: missing"]),
        (compute(address=7), ["engine.address", "block with a type"]),
        (compute(strategy="simpel"), ["engine.strategy", "simple, htex_auto", "'simpel'"]),
        (compute(strategy={"type": "SimpelStrategy"}), ["'SimpleStrategy'"]),
        (
            compute(strategy={"type": "SimpleStrategy", "max_idle": 3}),
            ["engine.strategy", "'max_idle'", "'max_idletime'"],
        ),
        (
            compute(job_status_kwargs={"max_idle_time": 1}),
            ["engine.job_status_kwargs", "'max_idle_time'", "'max_idletime'"],
        ),
        (compute(job_status_kwargs={"strategy_period": 0}), ["strategy_period", "above 0"]),
        (compute(worker_port_range=[1, 70000]), ["engine.worker_port_range", "two port"]),
        (compute(worker_port_range=[9, 8]), ["engine.worker_port_range", "below"]),
        (compute(cpu_affinity="blok"), ["engine.cpu_affinity", "'blok'"]),
        (compute(encrypted="yes"), ["engine.encrypted", "true or false"]),
        (compute(label="a/b"), ["engine.label"]),
        (compute(container_type="dockr", container_uri="x"), ["container_type", "docker, podman"]),
        (compute(container_type="docker"), ["engine.container_uri: missing"]),
        (compute(container_type="custom"), ["engine.container_cmd_options: missing"]),
        (
            compute(provider={"type": "KubernetesProvider", "image": "i"}, container_uri="x"),
            ["engine.container_uri", "KubernetesProvider"],
        ),
        (compute(provider={"type": "KubernetesProvider"}), ["engine.provider.image: missing"]),
        (compute(mpi_launcher="srun"), ["MPI mode is not supported", "GlobusMPIEngine"]),
        (mpi(mpi_launcher="mpirun"), ["engine.mpi_launcher", "srun, aprun", "'mpirun'"]),
        (mpi(provider={"type": "SlurmProvider"}), ["engine.provider.launcher", "SimpleLauncher"]),
        (mpi(provider=...), ["engine.provider.launcher", "SimpleLauncher"]),
        (mpi(cores_per_worker=1), ["engine", "'cores_per_worker'"]),
        (compute(storage_access=["x"]), ["engine.storage_access", "no value"]),
    ],
)
def test_errors_say_where_and_what(config: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(ConfigError) as error:
        uepconfig.check(config)
    for word in words:
        assert word in str(error.value)
