"""Decisions of the Parsl engines: which jobs are ours, which cores a worker has, capacity."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from mepd.uep.htex import pinning, ship, state
from mepd.uep.htex.ledger import Block, command, is_ours, parse

NAME = "parsl.0a1b2c3d.GlobusComputeEngine-HighThroughputExecutor.block-0"


@pytest.mark.parametrize(
    ("provider", "output", "ours"),
    [
        ("SlurmProvider", f"{NAME}.1795447562.44\n", True),
        ("SlurmProvider", "somebody-elses\n", False),
        ("SlurmProvider", "", False),
        ("SlurmProvider", f"{NAME.replace('0a', 'ff')}.1\n", False),
        ("PBSProProvider", f"Job Id: 12.pbs\n    Job_Name = {NAME}.179\n    job_state = R\n", True),
        ("PBSProProvider", "Job Id: 12.pbs\n    Job_Name = STDIN\n", False),
        ("PBSProProvider", f"Variable_List = {NAME}\n    Job_Name = other\n", False),
        ("GridEngineProvider", f"job_number: 3\njob_name:                   {NAME}.1\n", True),
        ("TorqueProvider", "Job_Name = parsl.0a1b2c3e.\n", False),
        ("CondorProvider", f"parsl.{NAME}.1\n", True),
        ("TorqueProvider", f"Job_Name = {NAME[:15]}\n", True),
        ("LSFProvider", f"{NAME}.1\n", True),
    ],
)  # fmt: skip
def test_a_job_is_ours_by_its_name(provider: str, output: str, ours: bool) -> None:
    assert is_ours(Block(provider, "12", NAME), output) is ours


def test_commands_name_one_job_of_one_cluster() -> None:
    block = Block("SlurmProvider", "12", NAME, cluster="a,b")
    assert command(("scancel", "ID"), block) == ["scancel", "--clusters=a,b", "12"]
    block = Block("CondorProvider", "12.0", NAME)
    assert command(("condor_q", "ID", "-af"), block) == ["condor_q", "12.0", "-af"]


GOOD = asdict(Block("SlurmProvider", "12", NAME))


@pytest.mark.parametrize(
    ("blocks", "count"),
    [
        ([GOOD], 1),
        ([{**GOOD, "job_id": "--all"}], 0),
        ([{**GOOD, "job_id": "1 2"}], 0),
        ([{**GOOD, "job_id": 12}], 0),
        ([{**GOOD, "cluster": "x; rm"}], 0),
        ([{**GOOD, "created": "now"}], 0),
        ([{**GOOD, "more": 1}], 0),
        ("12", 0),
        (None, 0),
    ],
)
def test_what_is_no_ledger_is_left_alone(blocks: Any, count: int) -> None:
    assert len(parse(json.dumps({"version": 1, "blocks": blocks}).encode())) == count


@pytest.mark.parametrize("data", [b"", b"[]", b"\xff", b'{"blocks": [1]}', b"[" * 99999])
def test_a_broken_file_is_an_empty_one(data: bytes) -> None:
    assert parse(data) == []


@pytest.mark.parametrize(
    ("affinity", "rank", "wanted"),
    [
        ("none", 0, []),
        ("block", 1, [4, 5]),
        ("block-reverse", 0, [6, 7]),
        ("alternating", 1, [1, 5]),
        ("list:0-1:2,4:3:7", 1, [2, 4]),
    ],
)
def test_cores_of_a_worker(affinity: str, rank: int, wanted: list[int]) -> None:
    available = list(range(8))
    if affinity == "block":
        assert pinning.cores(affinity, available, 2, 4) == wanted
    else:
        assert pinning.cores(affinity, available, rank, 4) == wanted


@pytest.mark.parametrize(("affinity", "count"), [("block", 9), ("list:0:1", 3)])
def test_cores_that_cannot_be_had(affinity: str, count: int) -> None:
    with pytest.raises(ValueError, match="cpu_affinity"):
        pinning.cores(affinity, list(range(8)), 0, count)


def test_variables_of_cores_and_accelerators() -> None:
    assert pinning.core_variables([]) == {} and pinning.accelerator_variables(None, 4, 2) == {}
    assert pinning.core_variables([2, 3])["OMP_NUM_THREADS"] == "2"
    shared = pinning.accelerator_variables("3", 4, 2)
    assert shared["CUDA_VISIBLE_DEVICES"] == "1" and shared["ZE_AFFINITY_MASK"] == "3"
    assert pinning.accelerator_variables("3", 4, None)["CUDA_VISIBLE_DEVICES"] == "3"
    assert pinning.accelerator_variables("GPU-x", 1, 2)["CUDA_VISIBLE_DEVICES"] == "GPU-x"


def manager(**more: Any) -> dict[str, Any]:
    return {
        "manager": "m", "block_id": "0", "worker_count": 4, "tasks": 1, "idle_duration": 0.0,
        "active": True, "draining": False, "parsl_version": "1", "python_version": "3", **more,
    }  # fmt: skip


def test_managers_that_take_tasks_count() -> None:
    held = [manager(active=False), manager(draining=True)]
    assert state.free_slots([manager(), *held], 0) == 4
    assert state.free_slots([manager(), manager()], 2) == 12


def test_managers_by_job() -> None:
    packages = {"m": {"globus-compute-sdk": "4"}}
    found = state.describe([manager(), manager(block_id="9")], packages, {"0": "1234"})
    assert set(found) == {"1234", "9"} and found["1234"][0]["sdk_version"] == "4"


def test_the_archive_has_all_that_pool_and_worker_import(tmp_path: Path) -> None:
    (tmp_path / "w.pyz").write_bytes(ship.archive())
    code = (
        "import sys; sys.meta_path = [f for f in sys.meta_path if 'editable' not in str(f)];"
        f"sys.path.insert(0, {str(tmp_path / 'w.pyz')!r}); sys.argv = ['w.pyz'];"
        "import mepd.uep.htex.pool, mepd.uep.worker, mepd.uep.engines.execute;"
        "assert 'w.pyz' in mepd.__file__, mepd.__file__;"
        "bad = [m for m in sys.modules if m.startswith('mepd') and m.count('.') and"
        " 'w.pyz' not in (sys.modules[m].__file__ or 'w.pyz')]; sys.exit(bool(bad))"
    )
    done = subprocess.run(
        [sys.executable, "-P", "-c", code], capture_output=True, text=True, cwd=tmp_path
    )
    assert not done.returncode, done.stderr


def test_the_script_is_one_that_a_shell_takes() -> None:
    text = ship.script("'/it'\\''s here/a'", '"$dir"/b')
    done = subprocess.run(["/bin/sh", "-n"], input=text, text=True, capture_output=True)
    assert not done.returncode, done.stderr


def test_a_command_that_brings_all_along() -> None:
    command = ship.embedded({"pool_title": "x"})
    assert not set(command) & set("$'`\"{}\\") and len(command) < 128 * 1024
    done = subprocess.run(
        ["/bin/bash", "-c", f"{command} --help"], capture_output=True, text=True, cwd="/"
    )
    assert not done.returncode and "--cert_dir" in done.stdout, done.stderr
