"""The engines on Parsl when workers, nodes, hosts and user endpoints are killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from tests.conftest import is_gone, wait_for
from tests.process.fakeslurm import FakeSlurm
from tests.process.htex_harness import Harness, double, engines, sleeps


@pytest.fixture(scope="module")
def make_engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Harness]]:
    yield from engines(tmp_path_factory)


def dies_once(path: str) -> str:
    import os
    import signal
    from pathlib import Path

    if not Path(path).exists():
        Path(path).write_text("")
        os.kill(os.getpid(), signal.SIGKILL)
    return "second"


def loses_its_node_once(path: str) -> str:
    import os
    import signal
    from pathlib import Path

    if not Path(path).exists():
        Path(path).write_text("")
        os.kill(os.getppid(), signal.SIGKILL)
    return "second"


def test_a_lost_task_is_run_again_with_its_worker_or_its_node(
    make_engine: Callable[..., Harness], tmp_path: Path
) -> None:
    before = {p.pid for p in psutil.Process().children()}
    harness = make_engine(max_retries_on_system_failure=1)
    assert harness.value(harness.submit(dies_once, str(tmp_path / "a"))) == "second"
    assert harness.value(harness.submit(loses_its_node_once, str(tmp_path / "b"))) == "second"
    slow = harness.submit(sleeps, 600)
    harness.until(lambda: slow in harness.begun_ids)
    waits = harness.submit(double, 1)
    assert harness.engine.running == 1
    (host,) = (p for p in psutil.Process().children() if p.pid not in before)
    family = [host, *host.children(recursive=True)]
    assert len(family) >= 4
    assert harness.engine.drop_waiting() == [waits]
    assert harness.end() == [slow]
    assert not [p for p in family if p.is_running()]


def test_sigkill_of_the_uep_leaves_no_process(tmp_path: Path) -> None:
    code = (
        "import sys, time; from pathlib import Path; from tests.process.htex_harness import *;"
        "h = Harness(Path(sys.argv[1]), max_workers_per_node=1);"
        "h.value(h.submit(double, 1)); h.submit(sleeps, 600); print('up', flush=True);"
        "h.loop.call_later(1, lambda: None); h.loop.start()"
    )
    uep = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    assert uep.stdout is not None
    with uep.stdout as lines:
        assert any(line == "up\n" for line in lines)
    family = psutil.Process(uep.pid).children(recursive=True)
    assert len(family) >= 4
    os.kill(uep.pid, signal.SIGKILL)
    uep.wait()
    for member in family:
        wait_for(lambda: not member.is_running() or member.status() == "zombie", what=str(member))


def test_a_block_that_cannot_start_is_told_with_its_output_and_tried_again(
    make_engine: Callable[..., Harness], tmp_path: Path
) -> None:
    flag = tmp_path / "repaired"
    init = f"test -e {flag} || {{ echo no such module >&2; exit 3; }}"
    harness = make_engine(provider={"type": "LocalProvider", "worker_init": init})
    result = harness.result(harness.submit(double, 1))
    assert result.error_code == "WorkerLost"
    assert "EXIT CODE: 3" in result.data and "no such module" in result.data
    flag.touch()
    assert harness.value(harness.submit(double, 2)) == 4


def test_blocks_that_cannot_start_any_more_end_what_waits(
    make_engine: Callable[..., Harness], tmp_path: Path
) -> None:
    broken = tmp_path / "broken"
    init = f"test ! -e {broken} || {{ echo out of order >&2; exit 3; }}"
    harness = make_engine(
        provider={"type": "LocalProvider", "worker_init": init},
        job_status_kwargs={"max_idletime": 600, "strategy_period": 0.2},
    )
    assert harness.value(harness.submit(double, 1)) == 2
    broken.touch()
    for process in host_of(harness).children(recursive=True):
        if "test pool" in " ".join(process.cmdline()):
            process.terminate()
    harness.until(lambda: harness.engine.status()["managers"] == 0)
    result = harness.result(harness.submit(double, 2))
    assert "EXIT CODE: 3" in result.data and "out of order" in result.data


def test_what_parsl_refuses_is_the_answer(make_engine: Callable[..., Harness]) -> None:
    harness = make_engine(address={"type": "address_by_interface", "ifname": "nope0"})
    result = harness.result(harness.submit(double, 1))
    assert "engine.address: address_by_interface: [Errno 19] No such device" in result.data
    assert "Traceback" not in result.data


def host_of(harness: Harness) -> psutil.Process:
    return psutil.Process(harness.engine._host.pid)  # type: ignore[attr-defined]


def test_nothing_is_left_of_a_killed_host_and_the_engine_goes_on(
    make_engine: Callable[..., Harness],
) -> None:
    harness = make_engine()
    waits = harness.submit(double, 1)
    host_of(harness).kill()
    assert harness.value(waits) == 2
    slow = harness.submit(sleeps, 600)
    harness.until(lambda: slow in harness.begun_ids)
    host = host_of(harness)
    family = host.children(recursive=True)
    assert len(family) >= 3
    host.kill()
    assert "the host of Parsl was killed by SIGKILL" in harness.result(slow).data
    assert not [p for p in family if p.is_running()]
    assert harness.value(harness.submit(double, 2)) == 4


def test_an_interchange_that_ends_costs_what_runs_at_most(
    make_engine: Callable[..., Harness],
) -> None:
    harness = make_engine()
    slow = harness.submit(sleeps, 600)
    harness.until(lambda: slow in harness.begun_ids)
    waits = harness.submit(double, 3)
    for process in host_of(harness).children():
        if "interchange" in " ".join(process.cmdline()):
            process.kill()
    assert "interchange ended" in harness.result(slow).data
    assert harness.value(waits) == 6


def test_a_pool_that_is_told_to_end_says_what_is_lost(
    make_engine: Callable[..., Harness],
) -> None:
    harness = make_engine(provider={"type": "LocalProvider", "init_blocks": 1, "max_blocks": 1})
    slow = harness.submit(sleeps, 600)
    harness.until(lambda: slow in harness.begun_ids)
    for process in host_of(harness).children(recursive=True):
        if "test pool" in " ".join(process.cmdline()):
            process.terminate()
    assert "told to end" in harness.result(slow).data


SLURM = {"type": "SlurmProvider", "init_blocks": 1, "walltime": "00:10:00", "exclusive": False}


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeSlurm]:
    fake = FakeSlurm(tmp_path)
    monkeypatch.setenv("PATH", f"{fake.path}:{os.environ['PATH']}")
    yield fake
    fake.end()


def test_the_end_of_the_cluster_hits_nobody_who_has_the_pid_of_a_job(
    cluster: FakeSlurm, tmp_path: Path
) -> None:
    """Neither does its scancel: a job may have ended long since."""
    (cluster.jobs / "0").touch()
    with subprocess.Popen(["sleep", "600"], start_new_session=True) as another:
        try:
            (cluster.state / "0.pid").write_text(str(another.pid))
            subprocess.run([cluster.path / "scancel", "0"], check=True)
            cluster.end()
            assert cluster.cancelled() == ["0"] and another.poll() is None
        finally:
            another.kill()
    script = tmp_path / "script"
    script.write_text("#SBATCH --job-name=one\nsleep 600\n")
    for end in (cluster.end, lambda: subprocess.run([cluster.path / "scancel", "2"], check=True)):
        subprocess.run([cluster.path / "sbatch", script], check=True)
        wait_for(lambda: list(cluster.processes()), what="the job")
        end()
        wait_for(lambda: not list(cluster.processes()), what="the end of the job")


def killed_with_all_its_children(folder: Path) -> None:
    """A UEP on the cluster that ran one task, then SIGKILL to it and to its host at once."""
    code = (
        "import sys; from pathlib import Path;"
        "import os, signal; from tests.process.test_uep_htex_faults import *;"
        "h = Harness(Path(sys.argv[1]), provider=SLURM); h.value(h.submit(double, 1));"
        "pids = [h.engine._host.pid, os.getpid()]; [os.kill(p, signal.SIGKILL) for p in pids]"
    )
    done = subprocess.run([sys.executable, "-c", code, str(folder)], check=False)
    assert done.returncode == -signal.SIGKILL


def test_R1_blocks_of_a_batch_system_end_with_the_next_start_after_sigkill(
    make_engine: Callable[..., Harness], cluster: FakeSlurm, tmp_path: Path
) -> None:
    folder = tmp_path / "uep"
    folder.mkdir()
    killed_with_all_its_children(folder)
    (job,) = cluster.pids()
    assert psutil.pid_exists(job) and not cluster.cancelled()
    assert (folder / "blocks.json").stat().st_mode & 0o777 == 0o600
    harness = make_engine(folder, provider=SLURM)
    assert harness.value(harness.submit(double, 2)) == 4
    wait_for(lambda: cluster.cancelled() == ["0"], what="the old job cancelled")
    wait_for(lambda: is_gone(job), what="the old job's end")
    harness.end()
    assert sorted(cluster.cancelled()) == ["0", "1"]
    wait_for(lambda: all(is_gone(pid) for pid in cluster.pids()), what="the end of all jobs")


def test_a_job_number_that_is_anothers_by_now_is_left_alone(
    make_engine: Callable[..., Harness], cluster: FakeSlurm, tmp_path: Path
) -> None:
    folder = tmp_path / "uep"
    folder.mkdir()
    killed_with_all_its_children(folder)
    (cluster.jobs / "0").write_text("simulation-of-somebody\n")
    harness = make_engine(folder, provider=SLURM)
    assert harness.value(harness.submit(double, 2)) == 4
    blocks = folder / "blocks.json"
    wait_for(lambda: '"job_id": "0"' not in blocks.read_text(), what="the old job forgotten")
    harness.end()
    assert cluster.cancelled() == ["1"]


def test_a_block_that_cannot_be_cancelled_is_left_to_the_next_start(
    make_engine: Callable[..., Harness], cluster: FakeSlurm, tmp_path: Path
) -> None:
    folder = tmp_path / "uep"
    folder.mkdir()
    harness = make_engine(folder, provider=SLURM)
    assert harness.value(harness.submit(double, 1)) == 2
    scancel = cluster.path / "scancel"
    works = scancel.read_text()
    scancel.write_text("#!/bin/sh\necho slurm is away >&2\nexit 1\n")
    harness.end()
    scancel.write_text(works)
    assert '"job_id": "0"' in (folder / "blocks.json").read_text()
    (cluster.state / "0.stays").touch()  # its process was, other than a job's, a child of ours
    make_engine(folder, provider={**SLURM, "init_blocks": 0})
    wait_for(lambda: cluster.cancelled() == ["0"], what="the old job cancelled")
