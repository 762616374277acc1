"""The engines with real worker processes: what becomes of tasks that misbehave."""

from __future__ import annotations

import builtins
import errno
import os
import signal
import socket
import threading
import time
import types
import uuid
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from globus_compute_sdk.serialize import ComputeSerializer

from mepd.uep.amqp import IOLoop
from mepd.config.uepconfig import EngineConfig
from mepd.uep.engines.base import EngineContext, EngineTask
from mepd.uep.engines.pool import START_ATTEMPTS, PoolEngine
from mepd.uep.signals import STOP, Signals
from mepd.uep.worker import Server
from mepd.wire.message import Result, Task, pack_task, unpack_result

SERIALIZER = ComputeSerializer()
ENDPOINT = str(uuid.uuid4())
DEADLINE = 30.0


def by_value(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function as a user's own script has it: not importable, so sent as code."""
    scope = {"__name__": "__main__", "__builtins__": builtins}
    return types.FunctionType(function.__code__, scope, function.__name__)


class Harness:
    """An engine on a real loop; its events are kept."""

    def __init__(self, folder: Path, kind: str, workers: int, **config: Any) -> None:
        self.loop = IOLoop()
        self.begun_ids: list[str] = []
        self.results: dict[str, Result] = {}
        self.engine = PoolEngine(
            EngineConfig(kind, workers, **config),
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
        return self.submit_buffer(SERIALIZER.pack_buffers(parts), **options)

    def submit_buffer(self, buffer: str, **options: Any) -> str:
        task_id = str(uuid.uuid4())
        self.engine.submit(EngineTask(task_id, pack_task(Task(task_id, buffer)), **options))
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

    def workers(self) -> list[int]:
        return [w.pid for w in self.engine._workers]


KINDS = ("ThreadPoolEngine", "ProcessPoolEngine")


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Callable[..., Harness]]:
    made: list[Harness] = []
    saved = {s: signal.getsignal(s) for s in (*STOP, signal.SIGCHLD)}

    def start(kind: str = KINDS[0], workers: int = 2, **config: Any) -> Harness:
        made.append(Harness(tmp_path, kind, workers, **config))
        return made[-1]

    yield start
    for harness in made:
        harness.engine.stop()
    signal.set_wakeup_fd(-1)
    for number, handler in saved.items():
        signal.signal(number, handler)


@pytest.fixture(params=KINDS)
def harness(request: pytest.FixtureRequest, make: Callable[..., Harness]) -> Harness:
    return make(request.param)


def double(x: int) -> int:
    return 2 * x


def test_many_tasks(harness: Harness) -> None:
    tasks = {harness.submit(double, n): n for n in range(200)}
    harness.until(lambda: len(harness.results) == 200)
    for task_id, n in tasks.items():
        assert harness.value(task_id) == 2 * n
    assert sorted(harness.begun_ids) == sorted(tasks)


def test_details_and_times_as_the_sdk_reads_them(harness: Harness) -> None:
    import platform

    import dill
    import globus_compute_sdk

    result = harness.result(harness.submit(double, 1))
    assert result.details == {
        "os": platform.platform(),
        "dill_version": dill.__version__,
        "python_version": platform.python_version(),
        "globus_compute_sdk_version": globus_compute_sdk.__version__,
        "endpoint_id": ENDPOINT,
    }
    states = [(s["state"], s["actor"]) for s in result.task_statuses]
    assert states == [("execution-start", "worker"), ("execution-end", "worker")]
    start, end = (s["timestamp"] for s in result.task_statuses)
    assert 0 <= time.time_ns() - end < 60e9 and start <= end


def test_the_sdk_common_package_reads_the_results(harness: Harness) -> None:
    messagepack = pytest.importorskip("globus_compute_common.messagepack")
    from mepd.wire.message import pack_result

    def boom() -> None:
        raise ValueError("\udc80 not UTF-8")

    for task_id in (harness.submit(double, 1), harness.submit(boom)):
        found = messagepack.unpack(pack_result(harness.result(task_id)))
        assert str(found.task_id) == task_id


def test_exception_brings_the_users_traceback_only(harness: Harness) -> None:
    def outer() -> None:
        def inner() -> None:
            raise KeyError("the reason")

        inner()

    result = harness.result(harness.submit(outer))
    assert result.error_code == "RemoteExecutionError"
    assert result.error_message == "An error occurred during the execution of this task"
    assert "KeyError: 'the reason'" in result.data
    assert "in outer" in result.data and "in inner" in result.data
    assert "execute.py" not in result.data
    assert result.details is not None and result.details["endpoint_id"] == ENDPOINT


def exits(code: Any) -> None:
    import sys

    sys.exit(code)


def interrupts() -> None:
    raise KeyboardInterrupt


def hostile() -> None:
    class Hostile(Exception):
        def __str__(self) -> str:
            raise SystemExit("no text for you")

    raise Hostile


def hostile_class() -> None:
    class Hostile(Exception):
        @property
        def __class__(self) -> Any:  # type: ignore[override]
            raise ValueError("no class for you")

    raise Hostile


def hostile_too_large() -> None:
    from globus_compute_sdk.errors import MaxResultSizeExceeded

    class Hostile(MaxResultSizeExceeded):
        def __init__(self) -> None:
            pass

        def __str__(self) -> str:
            raise SystemExit("no text for you")

    raise Hostile


def hostile_metaclass() -> None:
    class Meta(type):
        @property
        def __name__(cls) -> str:  # type: ignore[override]
            raise SystemExit("no name for you")

    class Hostile(Exception, metaclass=Meta):
        def __str__(self) -> str:
            raise Hostile

    raise Hostile


def long_chain() -> None:
    error: Exception | None = None
    for n in range(100_000):
        next_error = ValueError(n)
        next_error.__context__ = error
        error = next_error
    assert error is not None
    raise error


def unpicklable() -> Any:
    return (n for n in range(3))


def unpicklable_without_a_text() -> Any:
    class Value:
        def __reduce__(self) -> str:
            raise ValueError("not to be sent")

        def __str__(self) -> str:
            raise SystemExit("no text for you")

    return Value()


def missing_module() -> None:
    import no_such_module_anywhere  # type: ignore[import-not-found]  # noqa: F401


@pytest.mark.parametrize(
    ("function", "args", "words"),
    [
        (exits, (3,), "SystemExit: 3"),
        (exits, ("bye",), "SystemExit: bye"),
        (interrupts, (), "KeyboardInterrupt"),
        (hostile, (), "Hostile"),
        (hostile_class, (), "Hostile"),
        (hostile_too_large, (), "Hostile"),
        (hostile_metaclass, (), "Hostile"),
        (long_chain, (), "ValueError: 99999"),
        (unpicklable, (), "SerializationError"),
        (unpicklable_without_a_text, (), "SerializationError"),
        (missing_module, (), "No module named 'no_such_module_anywhere'"),
        (double, (1, 2, 3), "TypeError"),
    ],
)
def test_what_a_function_does_is_an_error_result(
    harness: Harness, function: Callable[..., Any], args: tuple[Any, ...], words: str
) -> None:
    before = harness.workers()
    result = harness.result(harness.submit(function, *args))
    assert result.error_code == "RemoteExecutionError" and words in result.data
    assert harness.value(harness.submit(double, 21)) == 42
    assert harness.workers()[: len(before)] == before


def unpicklable_with_a_long_text() -> Any:
    class Value:
        def __reduce__(self) -> str:
            raise ValueError("not to be sent")

        def __str__(self) -> str:
            return "much of it " * 1_000_000

    return Value()


def test_the_text_of_a_result_that_cannot_be_serialized_is_not_logged(
    capfd: pytest.CaptureFixture[str], harness: Harness
) -> None:
    result = harness.result(harness.submit(unpicklable_with_a_long_text))
    assert "SerializationError" in result.data and "ValueError: not to be sent" in result.data
    assert "much of it" not in capfd.readouterr().err


def patches_json() -> None:
    import json

    json.dumps = lambda *_args, **_options: "junk"
    json.loads = None  # type: ignore[assignment]


def patches_time_and_os() -> None:
    import os
    import time

    time.time_ns = time.time = os.getpid = os._exit = None  # type: ignore[assignment]


def breaks_its_outputs() -> None:
    import sys

    sys.stdout.close()
    sys.stderr.close()
    sys.excepthook = None  # type: ignore[assignment]


def removes_its_folder() -> None:
    import os
    import shutil

    shutil.rmtree(os.getcwd())


def blocks_signals() -> None:
    import signal

    signal.pthread_sigmask(signal.SIG_BLOCK, range(1, 65))


def leaves_a_thread() -> None:
    import threading
    import time

    threading.Thread(target=time.sleep, args=(3600,)).start()


@pytest.mark.parametrize(
    "function",
    [
        patches_json,
        patches_time_and_os,
        breaks_its_outputs,
        removes_its_folder,
        blocks_signals,
        leaves_a_thread,
    ],
)
def test_what_a_task_does_to_its_python_hides_no_result(
    harness: Harness, function: Callable[..., Any]
) -> None:
    tasks = [harness.submit(function), harness.submit(double, 4)]
    assert harness.value(tasks[0]) is None
    assert harness.value(tasks[1]) == 8
    assert [harness.value(harness.submit(double, n)) for n in range(6)] == [0, 2, 4, 6, 8, 10]


def closes_descriptors(first: int) -> None:
    import os

    os.closerange(first, 4096)
    for _ in range(8):  # which take the numbers of those before
        os.open("/dev/null", os.O_RDWR)


@pytest.mark.parametrize("first", [0, 3])
def test_a_task_that_closes_all_descriptors_is_answered(harness: Harness, first: int) -> None:
    result = harness.result(harness.submit(closes_descriptors, first))
    assert result.error_code == "WorkerLost" and "exited with code 0" in result.data
    assert harness.value(harness.submit(double, 4)) == 8


def hangs_up(with_garbage: bool) -> None:
    import os
    import socket
    import stat
    import time

    for name in os.listdir("/proc/self/fd"):
        fd = int(name)
        try:
            if stat.S_ISSOCK(os.fstat(fd).st_mode):
                os.write(fd, b"?" * 1000) if with_garbage else socket.socket(fileno=fd).shutdown(2)
        except OSError:
            pass
    time.sleep(600)


@pytest.mark.parametrize("with_garbage", [False, True])
def test_a_task_that_closes_the_connection_or_sends_garbage_is_ended(
    harness: Harness, with_garbage: bool
) -> None:
    """And it is not said to have wanted memory."""
    result = harness.result(harness.submit(hangs_up, with_garbage))
    ends = ("closed its connection to the endpoint, and was killed", "exited with code 0")
    assert result.error_code == "WorkerLost" and result.data.endswith(ends)
    assert harness.value(harness.submit(double, 4)) == 8


def test_a_worker_that_cannot_start_says_how_it_ended(
    make: Callable[..., Harness], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mepd.uep.engines.pool.restart_delay", lambda failed: 0.05)
    (tmp_path / "occupied").touch()
    harness = make(working_dir="occupied")
    result = harness.result(harness.submit(double, 1))
    assert result.data.endswith("the worker process exited with code 1 while starting")


def dozes(seconds: float) -> str:
    import time

    end = time.monotonic() + seconds
    while time.monotonic() < end:
        time.sleep(0.01)
    return "slept"


@pytest.mark.parametrize("kind", KINDS)
def test_a_task_over_its_walltime_is_an_error_and_the_worker_lives(
    make: Callable[..., Harness], monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    monkeypatch.setenv("GC_TASK_TIMEOUT", "0.5")
    harness = make(kind)
    before = time.monotonic()
    result = harness.result(harness.submit(dozes, 60))
    assert time.monotonic() - before < 30
    assert result.error_code == "RemoteExecutionError"
    assert "longer than GC_TASK_TIMEOUT (0.5 s)" in result.data and "in dozes" in result.data
    workers = harness.workers()
    assert harness.value(harness.submit(dozes, 0.1)) == "slept"
    assert harness.value(harness.submit(double, 21)) == 42
    assert harness.workers() == workers


class LoadsWithoutEnd:
    def __reduce__(self) -> Any:
        return by_value(dozes), (3600,)


def value_without_end() -> Any:
    class Value:
        def __reduce__(self) -> Any:
            import time

            while True:
                time.sleep(0.01)

    return Value()


def text_without_end() -> None:
    class Endless(Exception):
        def __str__(self) -> str:
            import time

            while True:
                time.sleep(0.01)

    raise Endless


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("function", "args", "words"),
    [
        (double, (LoadsWithoutEnd(),), "TaskTimeout"),
        (value_without_end, (), "TaskTimeout"),
        (text_without_end, (), "Endless: <exception str() failed>"),
    ],
    ids=["argument", "value", "text"],
)
def test_a_walltime_counts_for_what_loads_and_saves_too(
    make: Callable[..., Harness],
    monkeypatch: pytest.MonkeyPatch,
    kind: str,
    function: Callable[..., Any],
    args: tuple[Any, ...],
    words: str,
) -> None:
    monkeypatch.setenv("GC_TASK_TIMEOUT", "1")
    harness = make(kind)
    result = harness.result(harness.submit(function, *args))
    assert result.error_code == "RemoteExecutionError" and words in result.data
    workers = harness.workers()
    assert harness.value(harness.submit(double, 21)) == 42
    assert harness.workers() == workers


def test_a_walltime_that_is_no_number_is_named(
    make: Callable[..., Harness], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GC_TASK_TIMEOUT", "soon")
    harness = make()
    assert "not 'soon'" in harness.result(harness.submit(double, 1)).data


@pytest.mark.parametrize("buffer", ["", "junk", "3\nabc", "5\n04\nxx" * 3])
def test_a_function_that_cannot_be_loaded(harness: Harness, buffer: str) -> None:
    assert harness.result(harness.submit_buffer(buffer)).error_code == "RemoteExecutionError"


def test_a_wire_error_of_the_users_own(harness: Harness) -> None:
    def raises() -> None:
        from mepd.errors import WireError

        raise WireError("\ud800" * 10_000_000)

    result = harness.result(harness.submit(raises))
    assert result.is_error and len(result.data) < 300_000


def test_a_message_that_is_no_task(harness: Harness) -> None:
    task_id = str(uuid.uuid4())
    harness.engine.submit(EngineTask(task_id, b"\x01not json"))
    result = harness.result(task_id)
    assert result.error_code == "CouldNotExecuteUserTaskError"


def test_result_over_the_limit_says_so(harness: Harness) -> None:
    def huge() -> str:
        return "x" * (11 * 1024 * 1024)

    result = harness.result(harness.submit(huge))
    assert result.error_code == "MaxResultSizeExceeded"
    assert "exceeded current limit of 10485760B" in result.data
    assert len(result.data) < 200


def test_large_tasks_and_results_pass(harness: Harness) -> None:
    def echo(x: bytes) -> bytes:
        return x

    data = os.urandom(3 * 1024 * 1024)
    tasks = [harness.submit(echo, data) for _ in range(4)]
    assert all(harness.value(t) == data for t in tasks)


def test_a_huge_traceback_is_shortened(harness: Harness) -> None:
    def loud() -> None:
        raise ValueError("x" * 5_000_000)

    assert len(harness.result(harness.submit(loud)).data) < 300_000


def leaves(code: int) -> None:
    import os

    os._exit(code)


def killed(number: int) -> None:
    import os
    import time

    os.kill(os.getpid(), number)
    time.sleep(60)  # another thread may be the one that takes the signal


@pytest.mark.parametrize(
    ("function", "arg", "words"),
    [
        (leaves, 7, "exited with code 7"),
        (leaves, 0, "exited with code 0"),
        (killed, signal.SIGKILL, "killed by SIGKILL"),
        (killed, signal.SIGSEGV, "killed by SIGSEGV"),
        (killed, signal.SIGTERM, "killed by SIGTERM"),
    ],
)
def test_dead_worker_costs_its_tasks_only(
    harness: Harness, function: Callable[..., Any], arg: int, words: str
) -> None:
    bad = harness.submit(function, int(arg))
    result = harness.result(bad)
    assert result.error_code == "WorkerLost"
    assert result.data.startswith("WorkerLost") and words in result.data
    assert harness.value(harness.submit(double, 4)) == 8


def says_much_and_dies() -> str:
    import os
    import threading
    import time

    def dies() -> None:
        time.sleep(0.2)
        os._exit(1)

    threading.Thread(target=dies).start()
    return "x" * 100_000


def test_a_result_of_several_reads_outlives_its_worker(
    make: Callable[..., Harness], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mepd.uep.engines.process._CHUNK", 4096)
    harness = make(KINDS[1], 1)
    harness.value(harness.submit(double, 1))
    task_id = harness.submit(says_much_and_dies)
    harness.until(lambda: harness.engine.running == 1)
    (pid,) = harness.workers()
    while psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
        time.sleep(0.01)
    assert harness.value(task_id) == "x" * 100_000


def test_a_worker_without_its_threads_is_not_ready(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else it would be given tasks, and they would be lost with it, again and again."""

    def refused(_thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    ours, theirs = socket.socketpair()
    monkeypatch.setattr(threading.Thread, "start", refused)
    with ours, theirs:
        with pytest.raises(RuntimeError):
            Server(theirs, lambda *_: b"").start(2, {})
        ours.setblocking(False)
        with pytest.raises(BlockingIOError):
            ours.recv(1)


def test_tasks_not_begun_run_in_the_replacement(make: Callable[..., Harness]) -> None:
    harness = make(KINDS[0], 1)
    bad = harness.submit(leaves, 1)
    good = [harness.submit(double, n) for n in range(5)]
    assert [harness.value(t) for t in good] == [0, 2, 4, 6, 8]
    assert harness.results[bad].error_code == "WorkerLost"


def naps(seconds: float) -> str:
    import time

    time.sleep(seconds)
    return "done"


def test_dead_thread_worker_costs_all_that_it_ran(make: Callable[..., Harness]) -> None:
    harness = make(KINDS[0], 3)
    tasks = [harness.submit(naps, 600) for _ in range(3)] + [harness.submit(double, 3)]
    harness.until(lambda: harness.engine.running == 3)
    os.kill(harness.workers()[0], signal.SIGKILL)
    assert harness.value(tasks[3]) == 6
    assert [harness.result(t).error_code for t in tasks[:3]] == ["WorkerLost"] * 3


def test_dead_process_worker_costs_one_task(make: Callable[..., Harness]) -> None:
    harness = make(KINDS[1], 2)
    slow = harness.submit(naps, 2)
    bad = harness.submit(leaves, 1)
    assert harness.value(slow) == "done"
    lost = harness.result(bad)
    assert lost.error_code == "WorkerLost"
    # what is known of its times, as globus-compute-endpoint 4.19 tells it
    states = [(t["state"], t["actor"]) for t in lost.task_statuses]
    assert states == [("waiting-for-launch", "interchange"), ("execution-end", "interchange")]
    assert lost.task_statuses[0]["timestamp"] < lost.task_statuses[1]["timestamp"]


def test_lost_tasks_are_retried_as_configured(
    make: Callable[..., Harness], tmp_path: Path
) -> None:
    harness = make(KINDS[1], 1, retries=2)

    def third_time_lucky(path: str) -> int:
        import os

        with open(path, "a") as f:
            f.write("x")
        tries = os.path.getsize(path)
        if tries < 3:
            os._exit(1)
        return tries

    assert harness.value(harness.submit(third_time_lucky, str(tmp_path / "tries"))) == 3
    assert harness.result(harness.submit(leaves, 1)).error_code == "WorkerLost"


def test_a_worker_held_open_by_its_grandchild_is_noticed(
    harness: Harness, tmp_path: Path
) -> None:
    def forks_and_dies(path: str) -> None:
        import os
        import signal
        import time

        pid = os.fork()
        if pid == 0:
            os.setsid()
            with open(path + ".new", "w") as f:
                f.write(str(os.getpid()))
            os.rename(path + ".new", path)
            time.sleep(60)
            os._exit(0)
        while not os.path.exists(path):
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGKILL)

    path = tmp_path / "pid"
    result = harness.result(harness.submit(forks_and_dies, str(path)))
    os.kill(int(path.read_text()), signal.SIGKILL)
    assert result.error_code == "WorkerLost"


def runs_a_child(path: str, dies: bool) -> None:
    import os
    import signal
    import subprocess
    import time

    child = subprocess.Popen(["sleep", "600"])
    with open(path + ".new", "w") as f:
        f.write(str(child.pid))
    os.rename(path + ".new", path)
    if dies:
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(600)


def is_gone(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def test_R2_children_of_a_killed_worker_end_with_it(harness: Harness, tmp_path: Path) -> None:
    path = tmp_path / "pid"
    task_id = harness.submit(runs_a_child, str(path), True)
    assert harness.result(task_id).error_code == "WorkerLost"
    harness.until(lambda: is_gone(int(path.read_text())))


def test_R2_children_of_workers_end_with_the_engine(harness: Harness, tmp_path: Path) -> None:
    path = tmp_path / "pid"
    harness.submit(runs_a_child, str(path), False)
    harness.until(path.exists)
    harness.engine.stop()
    harness.until(lambda: is_gone(int(path.read_text())))


def leaves_its_group(hangs_up: bool) -> None:
    import os
    import socket
    import stat
    import time

    os.setpgid(0, os.getpgid(os.getppid()))
    for name in os.listdir("/proc/self/fd") if hangs_up else ():
        try:
            if stat.S_ISSOCK(os.fstat(int(name)).st_mode):
                socket.socket(fileno=int(name)).shutdown(2)
        except OSError:
            pass
    time.sleep(60)


def test_a_worker_that_left_its_group_is_killed_all_the_same(make: Callable[..., Harness]) -> None:
    harness = make(KINDS[1], 1)
    result = harness.result(harness.submit(leaves_its_group, True))
    assert result.data.endswith("closed its connection to the endpoint, and was killed")
    harness.submit(leaves_its_group, False)
    harness.until(lambda: harness.engine.running == 1)
    (pid,) = harness.workers()
    harness.until(lambda: os.getpgid(pid) == os.getpgid(0))
    harness.engine.stop()
    assert is_gone(pid)


def test_R2_children_of_a_worker_that_ends_as_it_is_looked_at(
    make: Callable[..., Harness], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    harness = make(KINDS[1], 1)
    path = tmp_path / "pid"
    harness.submit(runs_a_child, str(path), False)
    harness.until(path.exists)
    (worker,) = harness.engine._workers
    real = type(worker)._ended

    def ends_after(self: Any) -> bool:
        monkeypatch.undo()
        found = real(self)
        os.kill(self.pid, signal.SIGKILL)
        while psutil.Process(self.pid).status() != psutil.STATUS_ZOMBIE:
            time.sleep(0.005)
        return found

    monkeypatch.setattr(type(worker), "_ended", ends_after)
    harness.engine.reap()
    harness.until(lambda: is_gone(int(path.read_text())))


def test_a_child_that_returns_answers_for_nobody(harness: Harness) -> None:
    def forks_and_returns() -> int:
        import os

        return os.fork()

    task_id = harness.submit(forks_and_returns)
    assert harness.value(task_id) > 0
    assert harness.value(harness.submit(double, 5)) == 10


def test_a_worker_that_cannot_start_fails_its_tasks(
    make: Callable[..., Harness], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mepd.uep.engines.process.sys.executable", "/bin/false")
    monkeypatch.setattr("mepd.uep.engines.pool.restart_delay", lambda failed: 0.05)
    harness = make(KINDS[0], 1)
    result = harness.result(harness.submit(double, 1))
    assert result.error_code == "WorkerLost" and "while starting" in result.data
    monkeypatch.undo()
    assert harness.value(harness.submit(double, 2)) == 4


@pytest.mark.parametrize("kind", KINDS)
def test_workers_that_stand_still_while_they_start_do_not_keep_tasks_waiting(
    make: Callable[..., Harness], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    stopped = tmp_path / "stopped"
    stopped.write_text("#!/bin/sh\nkill -STOP $$\n")
    stopped.chmod(0o755)
    monkeypatch.setattr("mepd.uep.engines.process.START_TIME", 0.05, raising=False)
    monkeypatch.setattr("mepd.uep.engines.pool.restart_delay", lambda failed: 0.05)
    monkeypatch.setattr("mepd.uep.engines.process.sys.executable", str(stopped))
    harness = make(kind, 1)
    result = harness.result(harness.submit(double, 1))
    how = "did not become ready in time, and was killed while starting"
    assert result.error_code == "WorkerLost" and result.data.endswith(how)
    monkeypatch.undo()
    assert harness.value(harness.submit(double, 2)) == 4


def waits_for(path: str) -> str:
    import os
    import time

    while not os.path.exists(path):
        time.sleep(0.01)
    return "done"


def test_workers_that_cannot_be_added_cost_no_task_that_others_can_run(
    make: Callable[..., Harness], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where RLIMIT_NPROC leaves room for one of two."""
    monkeypatch.setattr("mepd.uep.engines.pool.restart_delay", lambda failed: 0.01)
    harness = make(KINDS[1], 2)
    harness.value(harness.submit(double, 1))

    def refused(_engine: PoolEngine) -> None:
        raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))

    monkeypatch.setattr(PoolEngine, "_start_worker", refused)
    go = tmp_path / "go"
    tasks = [harness.submit(waits_for, str(go)), harness.submit(double, 2)]
    harness.until(lambda: harness.engine._failed_starts >= START_ATTEMPTS)
    go.touch()
    assert [harness.value(t) for t in tasks] == ["done", 4]


def test_process_workers_start_as_they_are_needed(make: Callable[..., Harness]) -> None:
    harness = make(KINDS[1], 3)
    harness.value(harness.submit(double, 1))
    assert len(harness.workers()) == 1
    tasks = [harness.submit(naps, 1.0) for _ in range(6)]
    harness.until(lambda: len(harness.results) == 7)
    assert len(harness.workers()) == 3 and all(harness.value(t) == "done" for t in tasks)


def test_result_serializers_are_honoured(harness: Harness) -> None:
    path = "globus_compute_sdk.serialize.JSONData"
    result = harness.result(harness.submit(double, 4, serializers=(path,)))
    assert result.data.startswith("11\n"), result.data
    assert SERIALIZER.deserialize(result.data) == 8


def test_allowed_serializers_are_honoured(make: Callable[..., Harness]) -> None:
    allowed = ("globus_compute_sdk.*Code", "globus_compute_sdk.serialize.JSONData")
    harness = make(KINDS[0], 1, allowed_serializers=allowed)
    assert "disabled by current" in harness.result(harness.submit(double, 4)).data


def where() -> tuple[str, str | None, str | None]:
    import os

    return os.getcwd(), os.environ.get("GC_TASK_UUID"), os.environ.get("GC_TASK_SANDBOX_DIR")


def test_working_folder_and_task_id(make: Callable[..., Harness], tmp_path: Path) -> None:
    harness = make(KINDS[1], 1)
    task_id = harness.submit(where)
    assert harness.value(task_id) == (str(tmp_path / "tasks_working_dir"), task_id, None)


def test_sandbox(make: Callable[..., Harness], tmp_path: Path) -> None:
    harness = make(KINDS[1], 1, sandbox=True)
    task_id = harness.submit(where)
    folder = str(tmp_path / "tasks_working_dir" / task_id)
    assert harness.value(task_id) == (folder, task_id, folder)


def test_shell_function(harness: Harness) -> None:
    from globus_compute_sdk import ShellFunction

    parts = [SERIALIZER.serialize(p) for p in (ShellFunction("echo {word}"), (), {"word": "hi"})]
    result = harness.value(harness.submit_buffer(SERIALIZER.pack_buffers(parts)))
    assert result.returncode == 0 and result.stdout.strip() == "hi"


def shell(command: str, **options: Any) -> str:
    from globus_compute_sdk import ShellFunction

    parts = [SERIALIZER.serialize(p) for p in (ShellFunction(command, **options), (), {})]
    return SERIALIZER.pack_buffers(parts)


def test_a_shell_function_has_its_sandbox(make: Callable[..., Harness], tmp_path: Path) -> None:
    """Its working folder is the task's own, and what it prints stays there as well."""
    harness = make(KINDS[1], 1, sandbox=True)
    task_id = harness.submit_buffer(shell("pwd; touch mine"))
    done = harness.value(task_id)
    folder = tmp_path / "tasks_working_dir" / task_id
    assert (done.returncode, done.stdout.strip()) == (0, str(folder))
    assert "sandboxing will not work" not in done.stderr
    names = sorted(p.name for p in folder.iterdir())
    assert names[-1] == "mine" and [n.split(".")[0] for n in names[:-1]] == [task_id] * 2


def test_the_walltime_of_a_shell_function(harness: Harness) -> None:
    before = time.monotonic()
    done = harness.value(harness.submit_buffer(shell("echo begun; sleep 60", walltime=0.5)))
    assert time.monotonic() - before < 30
    assert (done.returncode, done.stdout.strip()) == (124, "begun")
    assert "TimeoutExpired" in done.exception_name


def test_workers_hold_no_descriptor_of_ours(make: Callable[..., Harness]) -> None:
    reader, writer = os.pipe()
    os.set_inheritable(writer, True)

    def descriptors() -> list[str]:
        import os

        names = []
        for fd in os.listdir("/proc/self/fd"):
            try:
                names.append(os.readlink(f"/proc/self/fd/{fd}"))
            except FileNotFoundError:
                pass
        return names

    try:
        pipe = os.readlink(f"/proc/self/fd/{writer}")
        harness = make(KINDS[1], 1)
        assert pipe not in harness.value(harness.submit(descriptors))
    finally:
        os.close(reader)
        os.close(writer)


def test_stop_ends_busy_workers(harness: Harness) -> None:
    tasks = {harness.submit(naps, 600) for _ in range(2)}
    harness.until(lambda: harness.engine.running == 2)
    pids = harness.workers()
    assert set(harness.engine.stop()) == tasks
    assert not any(psutil.pid_exists(p) for p in pids)


def test_title(harness: Harness) -> None:
    harness.value(harness.submit(double, 1))
    assert psutil.Process(harness.workers()[0]).cmdline()[0] == "mepd-uep test worker"


def fails_with_much_in_hand() -> None:
    import gc
    import sys
    import weakref

    class Held:
        pass

    held = Held()
    sys.held = weakref.ref(held)  # type: ignore[attr-defined]
    gc.disable()
    raise ValueError("no")


def is_freed() -> bool:
    import sys

    return sys.held() is None  # type: ignore[attr-defined, no-any-return]


def test_what_a_task_that_failed_held_is_freed_at_once(make: Callable[..., Harness]) -> None:
    harness = make(KINDS[1], 1)
    assert harness.result(harness.submit(fails_with_much_in_hand)).is_error
    assert harness.value(harness.submit(is_freed))
