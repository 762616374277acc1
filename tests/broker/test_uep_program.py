"""The whole mepd-uep program on a real broker."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from oddheaders import ODD_HEADERS, OddProperties
from rabbit import Rabbit
from uep_fixtures import (
    PROCESSES,
    SERIALIZER,
    THREADS,
    Service,
    Uep,
    pack_call,
    services,
    starters,
    until,
)

from mepd.wire.message import Task, pack_task
from tests.conftest import is_gone

Start = Callable[..., Uep]


@pytest.fixture
def service(rabbit: Rabbit) -> Iterator[Service]:
    yield from services(rabbit)


@pytest.fixture
def start(service: Service, tmp_path: Path) -> Iterator[Start]:
    yield from starters(service, tmp_path)


def double(x: int) -> int:
    return 2 * x


def naps(path: str, seconds: float) -> int:
    import os
    import time

    with open(path, "a") as f:
        f.write("begun\n")
    time.sleep(seconds)
    return os.getpid()


def gone(*pids: int) -> bool:
    return all(is_gone(pid) for pid in pids)


@pytest.mark.parametrize("config", [THREADS, PROCESSES], ids=["threads", "processes"])
def test_tasks_there_and_back(service: Service, start: Start, config: dict[str, Any]) -> None:
    uep = start(config)
    first = uep.report()
    assert (first.received, first.outstanding, first.done, first.closing) == (0, 0, 0, False)
    assert first.heartbeat_period == 0.5
    ids = {service.send(double, n): n for n in range(50)}
    for task_id, result in service.results(50).items():
        assert not result.is_error
        assert SERIALIZER.deserialize(result.data) == 2 * ids[task_id]
    until(lambda: (r := uep.report()).done == 50 and r.outstanding == 0, "a report of 50 done")
    assert service.depth(service.task_queue) == 0
    uep.process.terminate()
    assert uep.wait() == 0
    assert service.depth(service.task_queue) == 0


def test_status_reports(service: Service, start: Start) -> None:
    uep = start({**THREADS, "display_name": "Debug"})
    first = service.status()
    assert first.endpoint_id == service.endpoint_id
    state = first.global_state
    assert state["active"] is True and state["heartbeat_period"] == 0.5
    assert state["posix_pid"] == uep.process.pid and state["posix_ppid"] == os.getpid()
    assert state["engine_type"] == "ThreadPoolEngine" and state["display_name"] == "Debug"
    assert service.status().global_state["active"] is True
    uep.process.terminate()
    last = until(
        lambda: (s := service.status().global_state)["active"] is False and s, "a last report"
    )
    assert last["heartbeat_period"] == 0
    assert uep.wait() == 0


@pytest.mark.parametrize("debug", [True, False])
def test_debug_tells_more(service: Service, start: Start, debug: bool) -> None:
    uep = start({**THREADS, "debug": debug})
    uep.report()
    service.send(double, 1)
    assert service.value() == 2
    assert (" DEBUG " in uep.text()) is debug


@pytest.mark.parametrize(("period", "reports"), [(None, 1), (0.3, 3)])
def test_the_heartbeat_period_is_kept(
    service: Service, start: Start, period: float | None, reports: int
) -> None:
    """A report with each period, which says it; 30 seconds if none is given."""
    config = {"engine": THREADS["engine"]}
    if period is not None:
        config["heartbeat_period"] = period
    start(config)
    for _ in range(reports):
        assert service.status().global_state["heartbeat_period"] == (period or 30)
    if period is None:
        time.sleep(1)
        assert service.depth(service.heartbeat_queue) == 0


def test_title_follows_the_work(service: Service, start: Start, tmp_path: Path) -> None:
    uep = start({**THREADS, "idle_heartbeats_soft": 1000})
    uep.report()
    title = lambda: psutil.Process(uep.process.pid).cmdline()[0]  # noqa: E731
    mep, own = service.name.split(".")[1][:4], service.endpoint_id[:4]
    until(lambda: title().startswith(f"mepd-uep harper {mep}../{own}.. idle 1/1000"), "idle")
    path = tmp_path / "go"
    service.send(naps, str(path), 3)
    until(lambda: title().endswith("1 running, 0 done"), "1 running")
    service.result()
    until(lambda: re.search(r" idle \d+/1000$", title()), "idle again")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGQUIT, signal.SIGHUP])
def test_signals_end_it_in_good_order(service: Service, start: Start, number: int) -> None:
    uep = start()
    uep.report()
    uep.process.send_signal(number)
    assert uep.wait(10) == 0
    assert f"received {signal.Signals(number).name}" in uep.text()


def test_stop_with_a_running_task_answers_it(
    service: Service, start: Start, tmp_path: Path
) -> None:
    uep = start({"engine": {"type": "ThreadPoolEngine", "max_workers": 1}})
    uep.report()
    path = tmp_path / "begun"
    busy = service.send(naps, str(path), 600)
    waiting = service.send(double, 5)
    until(path.exists, "the task to begin")
    pids = [w.pid for w in uep.workers()]
    uep.process.terminate()
    assert uep.wait(10) == 0 and gone(*pids)
    result = service.result()
    assert result.task_id == busy and "was stopped while running" in result.data
    until(lambda: service.depth(service.task_queue) == 1, "the other task to go back")
    start()
    result = service.result()
    assert result.task_id == waiting and SERIALIZER.deserialize(result.data) == 10


def test_stop_lets_short_tasks_finish(service: Service, start: Start, tmp_path: Path) -> None:
    uep = start()
    uep.report()
    path = tmp_path / "begun"
    service.send(naps, str(path), 0.3)
    until(path.exists, "the task to begin")
    uep.process.terminate()
    assert uep.wait(10) == 0
    assert service.value() > 0


def test_killed_while_running_is_told_once(
    service: Service, start: Start, tmp_path: Path
) -> None:
    uep = start()
    uep.report()
    path = tmp_path / "begun"
    task_id = service.send(naps, str(path), 600)
    until(path.exists, "the task to begin")
    pids = [w.pid for w in uep.workers()]
    uep.kill()
    until(lambda: gone(*pids), "the workers to die with it", 2.0)
    uep = start()
    result = service.result()
    assert result.task_id == task_id and result.error_code == "EndpointLost"
    assert "the endpoint died while running this task" in result.data
    until(lambda: uep.report().done == 1, "the report")
    assert path.read_text() == "begun\n"
    uep.process.terminate()
    assert uep.wait() == 0
    assert service.depth(service.task_queue) == service.depth(service.result_queue) == 0


def test_killed_while_running_is_run_again_on_request(
    service: Service, start: Start, tmp_path: Path
) -> None:
    config = {**THREADS, "retry_lost_tasks": True}
    uep = start(config)
    uep.report()
    path = tmp_path / "begun"
    service.send_buffer(sleep_once(path))
    until(path.exists, "the task to begin")
    uep.kill()
    start(config)
    assert service.value() == "second run"


def sleep_once(path: Path) -> str:
    from uep_fixtures import pack_call

    def task(path: str) -> str:
        import os
        import time

        if os.path.exists(path):
            return "second run"
        open(path, "w").close()
        time.sleep(600)
        return "first run"

    return pack_call(task, str(path))


def test_killed_before_running_is_run(service: Service, start: Start, tmp_path: Path) -> None:
    uep = start({"engine": {"type": "ThreadPoolEngine", "max_workers": 1}})
    uep.report()
    path = tmp_path / "begun"
    busy = service.send(naps, str(path), 600)
    waiting = [service.send(double, n) for n in range(3)]
    until(path.exists, "the task to begin")
    until(lambda: uep.report().received == 4, "all four to arrive")
    uep.kill()
    start()
    results = service.results(4)
    assert results[busy].error_code == "EndpointLost"
    assert [SERIALIZER.deserialize(results[t].data) for t in waiting] == [0, 2, 4]


def test_R1_end_of_the_notify_socket_ends_all(
    service: Service, start: Start, tmp_path: Path
) -> None:
    uep = start()
    uep.report()
    path = tmp_path / "begun"
    service.send(naps, str(path), 600)
    until(path.exists, "the task to begin")
    pids = [w.pid for w in uep.workers()]
    uep.notify.shutdown(socket.SHUT_RDWR)
    uep.notify.close()
    uep.wait(2)
    until(lambda: gone(*pids), "the workers to end", 2.0)


def test_R1_setup_dies_with_a_killed_uep(service: Service, start: Start, tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    script = f"sleep 600 & echo $! $$ > {pids}.new; mv {pids}.new {pids}; sleep 601; true"
    uep = start({**THREADS, "endpoint_setup": script})
    until(pids.exists, "the setup to run")
    family = [int(p) for p in pids.read_text().split()]
    family += [w.pid for w in uep.workers()]
    assert len(family) > 3 and not gone(*family)
    uep.kill()
    until(lambda: gone(*family), "the setup's processes to end", 2.0)


def test_R1_setup_dies_with_the_manager(service: Service, start: Start, tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    script = f"sleep 600 & echo $! $$ > {pids}.new; mv {pids}.new {pids}; sleep 601; true"
    uep = start({**THREADS, "endpoint_setup": script})
    until(pids.exists, "the setup to run")
    uep.notify.close()
    uep.wait(2)
    until(lambda: gone(*map(int, pids.read_text().split())), "the setup to end", 2.0)


def test_setup_and_teardown_run_around_the_life(
    service: Service, start: Start, tmp_path: Path
) -> None:
    trace = tmp_path / "trace"
    config = {
        **THREADS,
        "endpoint_setup": f"echo setup >> {trace}\ncd / && pwd >> {trace}",
        "endpoint_teardown": f"echo teardown >> {trace}",
    }
    uep = start(config)
    uep.report()
    assert trace.read_text() == "setup\n/\n"
    assert service.send(double, 3) and service.value() == 6
    uep.process.terminate()
    assert uep.wait() == 0
    assert trace.read_text() == "setup\n/\nteardown\n"


def test_failing_setup_is_told(service: Service, start: Start) -> None:
    uep = start({**THREADS, "endpoint_setup": "echo reason; exit 3"})
    assert uep.wait() == os.EX_CONFIG
    assert service.status().global_state["error"] == "endpoint_setup failed with exit code 3"
    assert "reason" in uep.text()


def test_soft_idle_exit(service: Service, start: Start) -> None:
    uep = start({**THREADS, "idle_heartbeats_soft": 2, "idle_heartbeats_hard": 100})
    report = uep.report()
    assert (report.soft, report.hard) == (2, 100)
    time.sleep(1.5)  # more than the soft limit: without any task it does not count
    assert uep.process.poll() is None
    service.send(double, 1)
    assert service.value() == 2
    began = time.monotonic()
    assert uep.wait() == 0
    assert time.monotonic() - began > 0.5
    assert "idle_heartbeats_soft" in uep.text()


def test_hard_idle_exit_with_a_task_outstanding(
    service: Service, start: Start, tmp_path: Path
) -> None:
    uep = start({**THREADS, "idle_heartbeats_soft": 1, "idle_heartbeats_hard": 3})
    uep.report()
    task_id = service.send(naps, str(tmp_path / "begun"), 600)
    assert uep.wait() == 0
    assert "Shutting down due to idle heartbeats HARD limit." in uep.text()
    assert service.result().task_id == task_id


def test_allowed_functions_of_the_document_win(service: Service, start: Start) -> None:
    other = str(uuid.uuid4())
    config = {**THREADS, "allowed_functions": [service.function_id]}
    uep = start(config, document={"allowed_functions": [other]})
    service.send(double, 1)
    result = service.result()
    assert result.error_code == "FUNCTION_NOT_ALLOWED"
    text = f"Function {service.function_id} not permitted on endpoint {service.endpoint_id}"
    assert result.data == result.error_message == text
    service.send(double, 1, function_uuid=other)
    assert service.value() == 2
    until(lambda: uep.report().done == 2, "both settled")
    assert service.depth(service.task_queue) == 0


def test_poison_messages_never_loop(service: Service, start: Start) -> None:
    uep = start()
    for body in (b"", b"junk", b"\x01{}", b"\x02" + os.urandom(1000)):
        service.channel().basic_publish("", service.task_queue, body)
    service.send(double, 4)
    assert service.value() == 8
    uep.process.terminate()
    assert uep.wait() == 0
    assert service.depth(service.task_queue) == 0


@pytest.mark.parametrize("value", ODD_HEADERS.values(), ids=ODD_HEADERS)
def test_headers_that_pika_cannot_decode_are_an_error_result(
    service: Service, start: Start, value: bytes
) -> None:
    uep = start()
    task_id = str(uuid.uuid4())
    body = pack_task(Task(task_id, pack_call(double, 3)))
    service.channel().basic_publish("", service.task_queue, body, OddProperties(value))
    refused = service.result()
    assert refused.task_id == task_id and refused.is_error
    assert "headers cannot be read" in refused.data
    service.send(double, 4)
    assert service.value() == 8
    uep.process.terminate()
    assert uep.wait() == 0
    assert service.depth(service.task_queue) == 0
    assert "connection closed" not in uep.text()


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"engine": {"type": "GlobusComputeEngine", "providr": {}}}, "'provider'"),
        ({"engine": {"type": "ThreadPoolEngin"}}, "did you mean 'ThreadPoolEngine'"),
        ({**THREADS, "idle_heartbeat_soft": 3}, "'idle_heartbeats_soft'"),
    ],
)
def test_bad_configuration_is_told(
    service: Service, start: Start, config: dict[str, Any], words: str
) -> None:
    uep = start(config)
    assert uep.wait() == os.EX_CONFIG
    state = service.status().global_state
    assert words in state["error"] and state["active"] is False
    assert words in uep.text()


def test_refused_credentials_end_the_start(
    rabbit: Rabbit, service: Service, start: Start
) -> None:
    url = rabbit.url("nobody", "s3cret-pass@word")
    creds = service.creds(tasks=url, results=url, heartbeats=url)
    uep = start(creds=creds)
    assert uep.wait() == os.EX_UNAVAILABLE
    assert "refuses the credentials" in uep.text()
    assert "s3cret" not in uep.text()


def test_two_urls_are_two_connections(rabbit: Rabbit, service: Service, start: Start) -> None:
    creds = service.creds(tasks=rabbit.url() + "?heartbeat=60")
    uep = start(creds=creds)
    uep.report()
    links = psutil.Process(uep.process.pid).net_connections("tcp")
    assert len([c for c in links if c.raddr.port == rabbit.port]) == 2
    service.send(double, 4)
    assert service.value() == 8


def test_one_uep_a_folder(service: Service, start: Start) -> None:
    first = start()
    first.report()
    second = start()
    assert second.wait() == os.EX_TEMPFAIL
    assert "another mepd-uep serves" in second.text()
    assert first.process.poll() is None


def test_secrets_are_in_no_argument_environment_or_log(
    rabbit: Rabbit, service: Service, start: Start
) -> None:
    uep = start({**THREADS, "debug": True, "endpoint_setup": "TOKEN=canary-7 true"})
    uep.report()
    service.send(double, 4)
    service.value()
    for process in [psutil.Process(uep.process.pid), *uep.workers()]:
        seen = " ".join(process.cmdline()) + str(process.environ())
        assert rabbit.password not in seen and "canary-7" not in seen
    uep.process.terminate()
    assert uep.wait() == 0
    assert rabbit.password not in uep.text() and "canary-7" not in uep.text()


def test_descriptors_of_the_workers(service: Service, start: Start) -> None:
    uep = start()
    uep.report()
    service.send(double, 4)
    service.value()
    (worker,) = uep.workers()
    sockets = [
        name
        for fd in os.listdir(f"/proc/{worker.pid}/fd")
        if (name := os.readlink(f"/proc/{worker.pid}/fd/{fd}")).startswith("socket:")
    ]
    assert len(sockets) == 1


def run_main(*args: str, **kwargs: Any) -> subprocess.CompletedProcess[str]:
    argv = [sys.executable, "-P", "-m", "mepd.uep.entry", *args]
    return subprocess.run(argv, capture_output=True, text=True, timeout=30, **kwargs)


def test_a_terminal_on_stdin_is_refused() -> None:
    ours, theirs = os.openpty()
    try:
        found = run_main("start", "x", stdin=theirs)
    finally:
        os.close(ours)
        os.close(theirs)
    assert found.returncode == os.EX_USAGE and "stdin is a terminal" in found.stderr


@pytest.mark.parametrize("document", ["", "{}", "[1, 2]", '{"amqp_creds": {}}'])
def test_a_bad_document_is_refused(document: str) -> None:
    found = run_main("start", "x", input=document)
    assert found.returncode == os.EX_DATAERR and "cannot start: stdin:" in found.stdout


def test_heavy_modules_stay_out_of_the_uep() -> None:
    heavy = (
        "globus_compute_sdk globus_sdk dill jinja2 jsonschema parsl pydantic psutil click asyncio"
        " requests ssl._ssl _ssl multiprocessing cryptography"
    ).split()
    code = (
        "import sys; from mepd.uep.lean import import_little; import_little();"
        "import mepd.uep.endpoint, mepd.uep.engines.pool, mepd.posix.parent;"
        f"print([m for m in {heavy!r} if m in sys.modules], 'yaml' in sys.modules,"
        " hasattr(sys.modules['inspect'], '__file__'))"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert found.stdout == "[] False False\n", found


def test_ssl_is_there_when_a_url_wants_it() -> None:
    code = (
        "import sys; from mepd.uep.lean import import_little; import_little();"
        "from mepd.uep.amqp import URLParameters;"
        "URLParameters('amqp://h/'); assert '_ssl' not in sys.modules;"
        "p = URLParameters('amqps://h/'); import ssl, pika.connection;"
        "assert isinstance(p.ssl_options.context, ssl.SSLContext);"
        "assert pika.connection.ssl.SSLContext is ssl.SSLContext; print('fine')"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert found.stdout == "fine\n", found


def test_R1_dies_with_its_parent(service: Service, tmp_path: Path) -> None:
    """Without a notify socket too: a parent killed by SIGKILL leaves nothing behind."""
    document = {"amqp_creds": service.creds(), "config": json.dumps(THREADS), "ep_info": {}}
    program = [sys.executable, "-P", "-m", "mepd.uep.entry", "start", service.name]
    parent = (
        "import subprocess, sys, os;"
        f"p = subprocess.Popen({[*program, '--die-with-parent']!r}, stdin=subprocess.PIPE);"
        f"p.stdin.write({json.dumps(document).encode()!r}); p.stdin.close();"
        "print(p.pid, flush=True); p.wait()"
    )
    begun = tmp_path / "begun"
    service.send(naps, str(begun), 600)
    with subprocess.Popen(
        [sys.executable, "-c", parent],
        stdout=subprocess.PIPE,
        env={"HOME": str(tmp_path), "PATH": "/usr/bin:/bin"},
    ) as process:
        assert process.stdout is not None
        pid = int(process.stdout.readline())
        until(begun.exists, "the task to begin")
        family = [pid, *(c.pid for c in psutil.Process(pid).children(recursive=True))]
        assert len(family) >= 2
        process.kill()
        until(lambda: gone(*family), "the UEP and its worker to die", 2.0)


def test_memory_after_many_tasks_is_what_it_was_after_few(
    service: Service, start: Start
) -> None:
    uep = start()
    uep.report()
    buffer = pack_call(double, 2)
    process = psutil.Process(uep.process.pid)

    def after(count: int) -> int:
        """Bytes resident once so many more tasks are done."""
        for _ in range(count):
            service.send_buffer(buffer)
        until(lambda: service.depth(service.result_queue) == count, "all results", 120)
        service.channel().queue_purge(service.result_queue)
        rss: int = process.memory_info().rss
        return rss

    few = after(2000)
    many = after(8000)
    assert many - few < 3 * 1024 * 1024, (few, many)
