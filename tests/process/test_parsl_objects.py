"""Example configurations make the same objects here and in globus-compute-endpoint."""

from __future__ import annotations

import json
import os
import subprocess
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

from mepd.config import uepconfig
from mepd.errors import ConfigError
from mepd.uep.htex.build import build, containerized, launch_command
from tests.conftest import require
from tests.process import parsldump

EXAMPLES = {
    "template": """
        type: GlobusComputeEngine
        max_workers_per_node: 1
        provider: {type: LocalProvider, min_blocks: 0, max_blocks: 1, init_blocks: 1,
                   worker_init: "true"}
    """,
    "manual": """
        type: GlobusComputeEngine
        address: {type: address_by_interface, ifname: lo}
        strategy: {type: SimpleStrategy, max_idletime: 30}
        provider: {type: PBSProProvider, queue: debug-scaling, account: allocation,
                   worker_init: , init_blocks: 0, min_blocks: 0, max_blocks: 1,
                   nodes_per_block: 1, walltime: 1:00:00, launcher: {type: MpiExecLauncher}}
    """,
    "bare": "type: GlobusComputeEngine",
    "pbs": """
        type: GlobusComputeEngine
        max_workers_per_node: 4
        available_accelerators: 4
        address: {type: address_by_interface, ifname: lo}
        provider: {type: PBSProProvider, account: a, queue: debug-scaling, cpus_per_node: 32,
                   select_options: ngpus=4, scheduler_options: "#PBS -l filesystems=home",
                   worker_init: module load conda, walltime: 01:00:00, nodes_per_block: 1,
                   init_blocks: 0, min_blocks: 0, max_blocks: 2,
                   launcher: {type: MpiExecLauncher, bind_cmd: --cpu-bind,
                              overrides: --depth=64 --ppn 1}}
    """,
    "slurm": """
        type: GlobusComputeEngine
        worker_debug: False
        max_workers_per_node: 2
        address: {type: address_by_interface, ifname: lo}
        provider: {type: SlurmProvider, partition: debug, account: a, qos: b, exclusive: false,
                   constraint: gpu, scheduler_options: "#SBATCH -C x", worker_init: module load a,
                   cmd_timeout: 120, nodes_per_block: 2, init_blocks: 0, min_blocks: 0,
                   max_blocks: 1, walltime: 00:10:00, mem_per_node: 128, cores_per_node: 64,
                   launcher: {type: SrunLauncher, overrides: -c 128}}
        mem_per_worker: 4
        cores_per_worker: 2
    """,
    "slurm-mpi": """
        type: GlobusMPIEngine
        mpi_launcher: srun
        max_workers_per_block: 2
        address: {type: address_by_interface, ifname: lo}
        provider: {type: SlurmProvider, partition: compute, launcher: {type: SimpleLauncher},
                   nodes_per_block: 4, init_blocks: 0, walltime: 00:05:00}
    """,
    "apptainer": """
        type: GlobusComputeEngine
        label: Midway@RCC.UChicago
        max_workers_per_node: 10
        container_type: apptainer
        container_cmd_options: -H /home/$USER
        container_uri: image.sif
        provider: {type: SlurmProvider, launcher: {type: SrunLauncher}, nodes_per_block: 2}
    """,
    "condor": """
        type: GlobusComputeEngine
        max_workers_per_node: 1
        worker_logdir_root: /tmp/logs
        working_dir: /tmp/tasks_dir
        encrypted: False
        provider: {type: CondorProvider, init_blocks: 1, max_blocks: 1, min_blocks: 0,
                   environment: {A: b}, requirements: HAS_SINGULARITY == True,
                   scheduler_options: +ProjectName = a}
    """,
    "lsf": """
        type: GlobusComputeEngine
        provider: {type: LSFProvider, queue: batch, project: abc, bsub_redirection: true,
                   walltime: 00:30:00, launcher: {type: JsrunLauncher, overrides: -n 1}}
    """,
    "torque": """
        type: GlobusComputeEngine
        address: {type: address_by_hostname}
        provider: {type: TorqueProvider, queue: normal, account: 12345,
                   launcher: {type: AprunLauncher, overrides: -b -- bwpy-environ --}}
    """,
    "grid": """
        type: GlobusComputeEngine
        provider: {type: GridEngineProvider, queue: all.q,
                   launcher: {type: WrappedLauncher, prepend: nice}}
    """,
    "strategies": """
        type: GlobusComputeEngine
        strategy: simple
        job_status_kwargs: {max_idletime: 300, strategy: htex_auto_scale, strategy_period: 2}
        provider: {type: LocalProvider, launcher: {type: SingleNodeLauncher, debug: false}}
    """,
    "tuning": """
        type: GlobusComputeEngine
        address: 10.1.2.3
        heartbeat_period: 15
        heartbeat_threshold: 200
        prefetch_capacity: 4
        cpu_affinity: block
        available_accelerators: [opencl:gpu:1, opencl:gpu:2]
        drain_period: 3000
        address_probe_timeout: 5
        block_error_handler: false
        worker_port: 54321
    """,
    "kubernetes": """
        type: GlobusComputeEngine
        encrypted: false
        address: {type: address_by_hostname}
        provider: {type: KubernetesProvider, init_blocks: 0, image: "python:3.12", init_cpu: 1,
                   max_cpu: 4, init_mem: 1024Mi, max_mem: 4096Mi, namespace: default}
    """,
}


def block(name: str) -> dict[str, Any]:
    value = yaml.safe_load(EXAMPLES[name])
    assert isinstance(value, dict)
    return value


def spec_of(name: str) -> Any:
    spec = uepconfig.check({"engine": block(name)}).engine.parsl
    assert spec is not None
    return spec


@cache
def peers() -> dict[str, Any]:
    """What the peer makes of all of them."""
    python = Path(os.environ.get("MEPD_TEST_PEER", "/opt/mepd-test-peer")) / "bin/python"
    require(python.exists(), "globus-compute-endpoint in $MEPD_TEST_PEER")
    blocks = [block(name) for name in EXAMPLES]
    done = subprocess.run(
        [python, parsldump.__file__],
        input=json.dumps(blocks), capture_output=True, text=True, check=True,
    )  # fmt: skip
    return dict(zip(EXAMPLES, map(json.loads, done.stdout.splitlines()), strict=True))


@pytest.mark.parametrize("name", EXAMPLES)
def test_the_same_objects_as_the_peer(name: str, tmp_path: Path) -> None:
    from mepd.uep.htex.executor import CLASSES

    wanted, spec = peers()[name], spec_of(name)
    if name == "manual":  # the peer of today keeps this form and fails with it at the start
        assert spec.poller == {"strategy": "simple", "max_idletime": 30, "strategy_period": 5.0}
        wanted["poller"] = parsldump.plain(spec.poller)
    try:
        executor = build(spec, CLASSES, tmp_path, "/x/workers.sh")
    except ConfigError as e:
        assert name == "kubernetes" and "kubernetes" in str(e) and "error" in wanted
        return
    assert parsldump.describe(executor, spec.poller) == wanted


def test_the_launch_command_is_our_pool_with_parsls_arguments(tmp_path: Path) -> None:
    from parsl.executors.high_throughput.executor import DEFAULT_LAUNCH_CMD

    command = launch_command(DEFAULT_LAUNCH_CMD, "/bin/sh '/home/{x}/workers.sh'")
    assert command.startswith("/bin/sh '/home/{{x}}/workers.sh' {debug} {max_workers_per_node}")
    assert "process_worker_pool" not in command
    other = launch_command("nice -n 5 process_worker_pool.py {debug}", "/bin/sh /w.sh")
    assert other == "nice -n 5 /bin/sh /w.sh {debug}"
    assert launch_command("/opt/x/process_worker_pool.py -a", "/w.sh").startswith("/opt/x/")


@pytest.mark.parametrize(
    ("kind", "options", "wanted"),
    [
        ("docker", "--gpus all", "docker run --gpus all -v {f}:{f} -t img CMD"),
        ("podman-hpc", None, "podman-hpc run -v {f}:{f} -t img CMD"),
        ("singularity", "-H /h", "singularity run -H /h img CMD"),
        ("custom", "run {EXECUTOR_RUNDIR} -- {EXECUTOR_LAUNCH_CMD} x", "run {f} -- CMD x"),
    ],
)
def test_containers(kind: str, options: str | None, wanted: str, tmp_path: Path) -> None:
    keys = {"container_type": kind, "container_uri": "img", "container_cmd_options": options}
    spec = uepconfig.check({"engine": {"type": "GlobusComputeEngine", **keys}}).engine.parsl
    assert spec is not None
    assert containerized(spec, tmp_path, "CMD") == wanted.replace("{f}", str(tmp_path))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"address": {"type": "address_by_interface", "ifname": "nope0"}}, "engine.address: addr"),
        ({"provider": {"type": "AWSProvider", "image_id": "a", "key_name": "b"}}, "boto3"),
    ],
)
def test_what_parsl_refuses_is_said_with_its_place(
    change: dict[str, Any], words: str, tmp_path: Path
) -> None:
    from mepd.uep.htex.executor import CLASSES

    config = {"type": "GlobusComputeEngine", **change}
    spec = uepconfig.check({"engine": config}).engine.parsl
    assert spec is not None
    with pytest.raises(ConfigError, match=words):
        build(spec, CLASSES, tmp_path, "/x")
