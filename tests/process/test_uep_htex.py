"""The engines on Parsl with real blocks of a LocalProvider on this machine."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
import uuid
import venv
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from mepd.config import uepconfig
from mepd.uep.amqp import IOLoop
from mepd.uep.engines.base import EngineContext, EngineTask
from mepd.uep.engines.registry import make
from mepd.uep.signals import STOP, Signals
from mepd.wire.message import Result, Task, pack_task, unpack_result
from tests.conftest import is_gone, wait_for
from tests.process.fakeslurm import FakeSlurm
from tests.process.test_uep_engines import SERIALIZER, by_value

ENDPOINT = str(uuid.uuid4())
DEADLINE = 60.0


class Harness:
    """An engine of a configuration on a real loop; its events are kept."""

    def __init__(self, folder: Path, **engine: Any) -> None:
        block = {"type": "GlobusComputeEngine", **engine}
        if block["type"] == "GlobusComputeEngine":
            block.setdefault("max_workers_per_node", 1)
        block.setdefault("provider", {"type": "LocalProvider"})
        block.setdefault("address", "127.0.0.1")
        self.folder = folder
        self.loop = IOLoop()
        self.begun_ids: list[str] = []
        self.results: dict[str, Result] = {}
        self.engine = make(
            uepconfig.check({"engine": block}).engine,
            EngineContext(ENDPOINT, folder, "mepd-uep test worker"),
            self,
            self.loop,
        )
        self.signals = Signals(self.loop, lambda _n: self.loop.stop(), self.engine.reap)
        self.engine.start()

    def begun(self, task_ids: Iterable[str]) -> None:
        self.begun_ids += task_ids

    def finished(self, task_id: str, packed: bytes) -> None:
        assert task_id not in self.results, "a task finished twice"
        self.results[task_id] = unpack_result(packed)

    def submit(self, function: Callable[..., Any], *args: Any, **options: Any) -> str:
        parts = [SERIALIZER.serialize(p) for p in (by_value(function), args, {})]
        task_id = str(uuid.uuid4())
        body = pack_task(Task(task_id, SERIALIZER.pack_buffers(parts)))
        self.engine.submit(EngineTask(task_id, body, **options))
        return task_id

    def until(self, check: Callable[[], Any]) -> None:
        end = time.monotonic() + DEADLINE

        def look() -> None:
            if check() or time.monotonic() > end:
                self.loop.stop()
            else:
                self.loop.call_later(0.01, look)

        self.loop.call_later(0, look)
        self.loop.start()
        assert check(), "not in time"

    def result(self, task_id: str) -> Result:
        self.until(lambda: task_id in self.results)
        return self.results[task_id]

    def value(self, task_id: str) -> Any:
        result = self.result(task_id)
        assert not result.is_error, result.data
        return SERIALIZER.deserialize(result.data)

    def end(self) -> list[str]:
        running = self.engine.stop()
        self.engine.close()
        return running


@pytest.fixture(scope="module")
def make_engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Harness]]:
    made: list[Harness] = []
    saved = {s: signal.getsignal(s) for s in (*STOP, signal.SIGCHLD)}

    def start(folder: Path | None = None, **engine: Any) -> Harness:
        made.append(Harness(folder or tmp_path_factory.mktemp("uep"), **engine))
        return made[-1]

    yield start
    for harness in made:
        harness.end()
    signal.set_wakeup_fd(-1)
    for number, handler in saved.items():
        signal.signal(number, handler)


@pytest.fixture(scope="module")
def shared(make_engine: Callable[..., Harness]) -> Harness:
    return make_engine(max_workers_per_node=2, run_in_sandbox=True)


def double(x: int) -> int:
    return 2 * x


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
    ],
)
def test_what_a_function_does_is_an_error_result(
    shared: Harness, function: Callable[..., Any], args: tuple[Any, ...], code: str, words: str
) -> None:
    result = shared.result(shared.submit(function, *args))
    assert result.error_code == code and words in result.data
    assert result.details is not None and result.details["endpoint_id"] == ENDPOINT
    assert shared.value(shared.submit(double, 4)) == 8


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


def sleeps(seconds: float) -> None:
    import time

    time.sleep(seconds)


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
        "import sys, time; from pathlib import Path; from tests.process.test_uep_htex import *;"
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
    for pid in fake.pids():
        with contextlib.suppress(ProcessLookupError):
            os.killpg(pid, signal.SIGKILL)


def killed_with_all_its_children(folder: Path) -> None:
    """A UEP on the cluster that ran one task, then SIGKILL to it and to its host at once."""
    code = (
        "import sys; from pathlib import Path; from tests.process.test_uep_htex import *;"
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
    assert is_gone(job)
    harness.end()
    assert sorted(cluster.cancelled()) == ["0", "1"]
    assert all(is_gone(pid) for pid in cluster.pids())


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
