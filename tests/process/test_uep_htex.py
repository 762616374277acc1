"""The engines on Parsl with real blocks of a LocalProvider on this machine."""

from __future__ import annotations

import signal
import sys
import venv
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import is_gone, wait_for
from tests.process.htex_harness import ENDPOINT, Harness, double, engines, sleeps


@pytest.fixture(scope="module")
def make_engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Harness]]:
    yield from engines(tmp_path_factory)


@pytest.fixture(scope="module")
def shared(make_engine: Callable[..., Harness]) -> Harness:
    return make_engine(max_workers_per_node=2, run_in_sandbox=True)


def test_many_tasks(shared: Harness) -> None:
    tasks = {shared.submit(double, n): n for n in range(100)}
    shared.until(lambda: len(shared.results) >= 100)
    for task_id, n in tasks.items():
        assert shared.value(task_id) == 2 * n
    assert set(tasks) <= set(shared.begun_ids)


def where() -> tuple[str, str | None, str | None, str]:
    import os

    import setproctitle  # type: ignore[import-not-found,unused-ignore]

    environment = os.environ
    title = setproctitle.getproctitle()
    rank = environment.get("PARSL_WORKER_COUNT")
    return os.getcwd(), environment.get("GC_TASK_SANDBOX_DIR"), rank, title


def test_a_task_runs_in_its_sandbox_in_a_worker_of_the_ueps_kind(shared: Harness) -> None:
    task_id = shared.submit(where)
    cwd, sandbox, count, title = shared.value(task_id)
    assert cwd == sandbox == str(shared.folder / "tasks_working_dir" / task_id)
    assert count == "2" and title == "mepd-uep test worker"


def raises() -> None:
    raise KeyError("the reason")


def exits() -> None:
    import sys

    sys.exit(3)


def unpicklable() -> Any:
    return (n for n in range(3))


def missing_module() -> None:
    import no_such_module_anywhere  # type: ignore[import-not-found]  # noqa: F401


def killed(number: int) -> None:
    import os

    os.kill(os.getpid(), number)


def leaves(status: int) -> None:
    import os

    os._exit(status)


def leaves_a_holder(status: int) -> None:
    """A grandchild in a session of its own holds the worker's socket for a while."""
    import os
    import time

    if os.fork() == 0:
        os.setsid()
        time.sleep(5)
        os._exit(0)
    os._exit(status)


def hangs_up() -> None:
    import os
    import socket
    import stat
    import time

    for name in os.listdir("/proc/self/fd"):
        try:
            if int(name) > 2 and stat.S_ISSOCK(os.fstat(int(name)).st_mode):
                socket.socket(fileno=int(name)).shutdown(socket.SHUT_RDWR)
        except OSError:
            pass
    time.sleep(600)


@pytest.mark.parametrize(
    ("function", "args", "code", "words"),
    [
        (raises, (), "RemoteExecutionError", "KeyError: 'the reason'"),
        (exits, (), "RemoteExecutionError", "SystemExit: 3"),
        (unpicklable, (), "RemoteExecutionError", "SerializationError"),
        (missing_module, (), "RemoteExecutionError", "No module named 'no_such_module_anywhere'"),
        (killed, (signal.SIGKILL,), "WorkerLost", "was killed by SIGKILL"),
        (killed, (signal.SIGSEGV,), "WorkerLost", "was killed by SIGSEGV"),
        (leaves, (7,), "WorkerLost", "exited with code 7"),
        (leaves_a_holder, (9,), "WorkerLost", "exited with code 9"),
        (hangs_up, (), "WorkerLost", "closed its connection to the endpoint, and was killed"),
    ],
)
def test_what_a_function_does_is_an_error_result(
    shared: Harness, function: Callable[..., Any], args: tuple[Any, ...], code: str, words: str
) -> None:
    result = shared.result(shared.submit(function, *args))
    assert result.error_code == code and words in result.data
    assert result.details is not None and result.details["endpoint_id"] == ENDPOINT
    assert shared.value(shared.submit(double, 4)) == 8


def leaves_a_child(path: str) -> None:
    import os
    import subprocess

    child = subprocess.Popen(["sleep", "600"])
    with open(path, "w") as f:
        f.write(str(child.pid))
    os._exit(0)


def test_R2_a_child_of_a_worker_that_exits_ends_with_it(shared: Harness, tmp_path: Path) -> None:
    path = tmp_path / "pid"
    result = shared.result(shared.submit(leaves_a_child, str(path)))
    assert "exited with code 0" in result.data
    wait_for(lambda: is_gone(int(path.read_text())))


def test_status_report(shared: Harness) -> None:
    shared.until(lambda: shared.engine.status()["idle_workers"] == 2)
    status = shared.engine.status()
    assert status["managers"] == status["active_managers"] == 1
    assert status["total_workers"] == 2 and status["outstanding_tasks"] == 0
    assert status["engine_type"] == "GlobusComputeEngine"
    assert status["provider_type"] == "LocalProvider" and status["max_blocks"] == 1
    ((manager,),) = status["node_info"].values()
    assert manager["worker_count"] == 2 and manager["sdk_version"]


def test_resource_specifications(shared: Harness) -> None:
    refusal = shared.engine.refusal({"num_nodes": 2})
    assert refusal is not None and "num_nodes" in refusal and "priority" in refusal
    assert shared.engine.refusal({}) is None


def test_blocks_come_with_tasks_and_go_when_idle(make_engine: Callable[..., Harness]) -> None:
    harness = make_engine(
        provider={"type": "LocalProvider", "init_blocks": 0, "max_blocks": 2},
        job_status_kwargs={"max_idletime": 0.5, "strategy_period": 0.2},
    )
    tasks = [harness.submit(sleeps, 1) for _ in range(2)]
    harness.until(lambda: harness.engine.status()["managers"] == 2)
    harness.until(lambda: all(t in harness.results for t in tasks))
    harness.until(lambda: harness.engine.status()["managers"] == 0)
    assert harness.engine.status()["total_workers"] == 0
    assert harness.value(harness.submit(double, 4)) == 8


def mpi_prefix() -> dict[str, str]:
    import os

    return {k: v for k, v in os.environ.items() if k.startswith(("PARSL_MPI", "PARSL_NUM"))}


def test_mpi_tasks_get_their_nodes(make_engine: Callable[..., Harness], tmp_path: Path) -> None:
    (tmp_path / "nodes").write_text("node1\nnode2\nnode3\n")
    provider = {
        "type": "LocalProvider",
        "nodes_per_block": 3,
        "launcher": {"type": "SimpleLauncher"},
        "worker_init": f"export PBS_NODEFILE={tmp_path}/nodes",
    }
    harness = make_engine(type="GlobusMPIEngine", provider=provider, max_workers_per_block=2)
    two = {"num_nodes": 2, "ranks_per_node": 4, "launcher_options": "-x"}
    tasks = [harness.submit(mpi_prefix, resources=two) for _ in range(3)]
    for task in tasks:
        found = harness.value(task)
        assert len(set(found["PARSL_MPI_NODELIST"].split(","))) == 2
        assert found["PARSL_NUM_RANKS"] == "8"
        assert found["PARSL_MPI_PREFIX"].split()[:5] == ["mpiexec", "-n", "8", "-ppn", "4"]
        assert found["PARSL_MPI_PREFIX"].endswith(" -x")
    for bad in ({}, {"num_nodes": 4}, {"num_ranks": 2}):
        assert harness.engine.refusal(bad)


def prefix() -> tuple[str, list[str]]:
    import sys

    return sys.prefix, [str(m.__file__) for n, m in sys.modules.items() if n == "mepd.errors"]


def other_python(folder: Path, packages: bool) -> str:
    """The worker_init for an environment of its own, with or without Parsl and the SDK."""
    venv.create(folder, with_pip=False)
    if packages:
        import parsl

        ours = Path(parsl.__file__).parents[1]
        (site,) = (folder / "lib").glob("python3*/site-packages")
        for package in ours.iterdir():
            if "mepd" not in package.name:  # this it has to get from us
                (site / package.name).symlink_to(package)
    return f". {folder}/bin/activate"


@pytest.mark.parametrize("packages", [True, False], ids=["usable", "unusable"])
def test_the_python_that_worker_init_chose(
    make_engine: Callable[..., Harness], tmp_path: Path, packages: bool
) -> None:
    init = other_python(tmp_path / "env", packages)
    harness = make_engine(provider={"type": "LocalProvider", "worker_init": init})
    chosen, modules = harness.value(harness.submit(prefix))
    if packages:
        assert chosen == str(tmp_path / "env")
        assert modules == [f"{harness.folder}/workers.pyz/mepd/errors.py"]
    else:
        assert chosen == sys.prefix
        (err,) = (harness.folder / "submit_scripts").glob("*.err")
        assert f"not run with {tmp_path}/env/bin/python3" in err.read_text()
