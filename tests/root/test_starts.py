"""Start requests through the master's own code, with real children of real accounts."""

from __future__ import annotations

import contextlib
import dataclasses
import gc
import os
import random
import resource
import secrets
import signal
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from mepd.log import LineFormatter
from mepd.model import StartRequest, UepState
from mepd.posix import process
from tests.conftest import User, is_gone, wait_for
from tests.figures import figure
from tests.root import launching
from tests.root.masterparts import REPORTER, Harness

Make = Callable[..., Harness]
SLEEP = REPORTER + "report()\ntime.sleep(600)\n"


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Make]:
    """Makes a harness whose UEPs run this program."""
    made: list[Harness] = []

    def build(body: str = SLEEP, rules: dict[str, Any] | None = None, **snapshot: Any) -> Harness:
        snap = launching.snapshot(launching.script(tmp_path, body), **snapshot)
        made.append(Harness(snap, **(rules or {})))
        return made[-1]

    yield build
    for harness in made:
        harness.close()


def ask(user: User, **changes: Any) -> StartRequest:
    return launching.request(f"{user.name}@example.org", **changes)


def descriptors() -> int:
    gc.collect()  # those of earlier tests are not for this one to count
    return len(os.listdir("/proc/self/fd"))


def test_O4_lines_of_the_manual_after_the_exec(
    make: Make, harper: User, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    h, request = make(), ask(harper)
    token = h.request(request)
    assert "successfully forked" not in caplog.text
    h.run_until(lambda: token in h.settled)
    pid = h.uep().process.pid
    command = h.uep().command
    assert (
        f"Creating new user endpoint (pid: {pid}) [({harper.name}, {request.name}) {command}]"
        in (caplog.text)
    )
    assert (
        f"Command process successfully forked for '{harper.name}' (Globus effective identity:"
        f" {request.effective_identity})."
    ) in caplog.text
    assert h.uep().state is UepState.RUNNING and not h.notices
    h.stopper.stop(h.uep(), "test")
    h.run_until(lambda: not len(h.table))
    assert (
        f"Command terminated by signal: 15 ({pid}) [({harper.name}, {request.name})" in caplog.text
    )


def test_each_line_about_a_uep_names_it_and_its_user(
    make: Make, harper: User, caplog: pytest.LogCaptureFixture
) -> None:
    """grep for the name tells its story: also where the manual's words leave it out."""
    caplog.set_level("INFO")
    h, request = make(), ask(harper)
    token = h.request(request)
    h.run_until(lambda: token in h.settled)
    again = h.request(request)
    h.run_until(lambda: again in h.settled)
    h.stopper.stop(h.uep(), "test")
    h.run_until(lambda: not len(h.table))
    lines = [LineFormatter().format(r) for r in caplog.records if hasattr(r, "uep")]
    story = ("Creating new", "successfully forked", "is ready", "already running", "Signaling",
             "Command terminated")  # fmt: skip
    assert all(any(words in line for line in lines) for words in story)
    assert all(request.name in line and harper.name in line for line in lines)
    (forked,) = [line for line in lines if "successfully forked" in line]
    assert forked.endswith(f"(Globus effective identity: {request.effective_identity}).")


def test_O4_no_success_line_for_a_child_that_dies_before_its_exec(
    make: Make, harper: User, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    h = make(mappings=(hanging_mapper(tmp_path),))
    token = h.request(ask(harper))
    pid = h.uep().child.pid
    h.run_until(lambda: process.descendants(pid))
    os.kill(pid, signal.SIGKILL)
    h.run_until(lambda: token in h.settled)
    assert "successfully forked" not in caplog.text
    assert h.texts() == ["Unable to start user endpoint process [terminated by signal 9]"]
    h.run_until(lambda: not h.reaper.strays())


def hanging_mapper(folder: Path) -> dict[str, Any]:
    script = folder / "mapper.sh"
    script.write_text("#!/bin/sh\nsleep 300\n")
    script.chmod(0o755)
    return {"DATA_TYPE": "external_identity_mapping#1.0.0", "command": [str(script)]}


@pytest.mark.figures
def test_A1_launch_children_killed_at_random_points_are_answered_once(
    make: Make, harper: User
) -> None:
    """Each request runs once or is answered once, and nothing leaks."""
    h = make()
    chance, count = random.Random(7), figure(40, 200)
    before = descriptors()
    for _ in range(count):
        request = ask(harper)
        token = h.request(request)
        child = h.table.get(request.name)
        assert child is not None
        at = time.monotonic() + chance.uniform(0, 0.25)
        h.run_until(lambda at=at: time.monotonic() >= at)  # type: ignore[misc]
        process.signal_process(child.child, signal.SIGKILL)
        h.run_until(lambda token=token: token in h.settled)  # type: ignore[misc]
        h.run_until(lambda: not len(h.table))
    assert len(h.settled) == len(set(h.settled)) == count
    h.run_until(lambda: not h.reaper.strays())
    assert descriptors() == before


def test_two_requests_at_once_start_one(make: Make, harper: User) -> None:
    h, request = make(), ask(harper)
    tokens = {h.request(request), h.request(request)}
    h.run_until(lambda: tokens <= set(h.settled))
    assert len(h.table) == 1 and h.endpoint.starts == 1


def consumer_dies(h: Harness) -> None:
    h.link.lost()
    h.starts.consumer_lost()


@pytest.mark.parametrize("late", [True, False], ids=["fails first", "comes again first"])
def test_A1_a_start_whose_consumer_died_is_answered_once(
    make: Make, harper: User, tmp_path: Path, late: bool
) -> None:
    """The failure is told to whom the delivery comes again for, and not before."""
    gate = tmp_path / "gate"
    script = tmp_path / "mapper.sh"
    script.write_text(f"#!/bin/sh\nuntil [ -e {gate} ]; do sleep 0.02; done\n")
    script.chmod(0o755)
    mapper = {"DATA_TYPE": "external_identity_mapping#1.0.0", "command": [str(script)]}
    h, request = make(mappings=(mapper,)), ask(harper)
    h.request(request)
    consumer_dies(h)
    again = None if late else h.request(request)
    gate.touch()
    h.run_until(lambda: not len(h.table))
    assert len(h.notices) == (0 if late else 1)
    again = again or h.request(request)
    h.run_until(lambda: again in h.settled)
    assert len(h.notices) == 1 and "failed to map" in h.texts()[0]
    consumer_dies(h)
    last = h.request(request)
    assert last in h.settled and len(h.notices) == 1 and not len(h.table)


def test_A1_A7_a_start_that_ran_is_not_run_again_for_the_next_consumer(
    make: Make, harper: User
) -> None:
    h, request = make(), ask(harper)
    token = h.request(request)
    h.run_until(lambda: token in h.settled)
    consumer_dies(h)
    again = h.request(request)
    assert again in h.settled and len(h.table) == 1
    h.stopper.stop(h.uep(), "test")
    h.run_until(lambda: not len(h.table))
    consumer_dies(h)
    last = h.request(request)
    assert last in h.settled and not len(h.table) and h.endpoint.starts == 1
    newer = h.request(dataclasses.replace(request, timestamp=request.timestamp + 1))
    h.run_until(lambda: newer in h.settled)
    assert h.endpoint.starts == 2 and not h.notices


def test_A1_a_check_whose_consumer_died_is_answered_once(
    make: Make, harper: User, caplog: pytest.LogCaptureFixture
) -> None:
    """A mapping was revoked, and the consumer dies while that is found out."""
    h, request = make(), ask(harper)
    h.request(request)
    h.run_until(lambda: h.settled)
    h.endpoint.snapshot = dataclasses.replace(h.endpoint.snapshot, mappings=())
    second = dataclasses.replace(request, timestamp=request.timestamp + 1)
    h.request(second)
    consumer_dies(h)
    h.run_until(lambda: "start request for" in caplog.text)
    assert not h.notices
    again = h.request(second)
    h.run_until(lambda: again in h.settled)
    assert len(h.notices) == 1 and len(h.table) == 1


@pytest.mark.parametrize("there", [True, False], ids=["another runs", "none"])
def test_a_uep_that_ends_while_its_person_is_mapped_again(
    make: Make, harper: User, tmp_path: Path, there: bool
) -> None:
    """The request is for the one that is there by then, or for a new one."""
    h, request = make(), ask(harper)
    h.request(request)
    h.run_until(lambda: h.settled)
    quick, gate = h.endpoint.snapshot, tmp_path / "gate"
    script = tmp_path / "mapper.sh"
    script.write_text(f"#!/bin/sh\nuntil [ -e {gate} ]; do sleep 0.02; done\n")
    script.chmod(0o755)
    slow = {"DATA_TYPE": "external_identity_mapping#1.0.0", "command": [str(script)]}
    h.endpoint.snapshot = dataclasses.replace(quick, mappings=(slow, *quick.mappings))
    tokens = {h.request(request)}
    h.endpoint.snapshot = quick
    h.stopper.stop(h.uep(), "test")
    h.run_until(lambda: not len(h.table))
    if there:
        tokens.add(h.request(request))
        h.run_until(lambda: h.uep().state is UepState.RUNNING)
    gate.touch()
    h.run_until(lambda: tokens <= set(h.settled))
    assert not h.notices and h.uep().state is UepState.RUNNING
    assert h.endpoint.starts == 2


def test_I9_another_identity_is_refused_with_credentials_unchanged(
    make: Make, harper: User, jessie: User, caplog: pytest.LogCaptureFixture
) -> None:
    h, request = make(), ask(harper)
    h.request(request)
    h.run_until(lambda: h.settled)
    token = h.request(
        ask(
            jessie,
            name=request.name,
            uep_id=request.uep_id,
            amqp_creds=launching.creds(request.uep_id),
        )
    )
    h.run_until(lambda: token in h.settled)
    assert [r.levelname for r in caplog.records if "refused" in r.getMessage()] == ["CRITICAL"]
    assert h.uep().request == request and h.uep().revive is None and not h.notices


def test_I9_the_same_identity_mapped_to_another_account_is_refused(
    make: Make, harper: User, jessie: User, caplog: pytest.LogCaptureFixture
) -> None:
    h, request = make(), ask(harper)
    h.request(request)
    h.run_until(lambda: h.settled)
    rule = {"source": "{username}", "match": ".*", "output": jessie.name}
    document = {"DATA_TYPE": "expression_identity_mapping#1.0.0", "mappings": [rule]}
    h.endpoint.snapshot = dataclasses.replace(h.endpoint.snapshot, mappings=(document,))
    token = h.request(request)
    h.run_until(lambda: token in h.settled)
    assert any(r.levelname == "CRITICAL" and "runs as" in r.getMessage() for r in caplog.records)
    assert h.uep().uid == harper.uid and h.uep().revive is None


def test_I8_a_revoked_mapping_refuses_the_next_start(make: Make, harper: User) -> None:
    h, request = make(), ask(harper)
    h.request(request)
    h.run_until(lambda: h.settled)
    h.endpoint.snapshot = dataclasses.replace(h.endpoint.snapshot, mappings=())
    token = h.request(request)
    h.run_until(lambda: token in h.settled)
    assert h.texts()[0].startswith("Identity failed to map to a local user name.")
    assert h.uep().revive is None


def test_a_uep_that_stops_within_the_grace_period_is_revived(
    make: Make, harper: User, tmp_path: Path
) -> None:
    tmp_path.chmod(0o777)
    marker = tmp_path / "first"
    body = REPORTER + (
        "signal.signal(signal.SIGUSR1, lambda *_: sys.exit(0))\n"
        f"first = not os.path.exists({str(marker)!r})\n"
        f"open({str(marker)!r}, 'w').close()\nreport()\ntime.sleep(600)\n"
    )
    h, request = make(body), ask(harper)
    h.request(request)
    h.run_until(lambda: h.settled)
    pid = h.uep().process.pid
    token = h.request(request)
    h.run_until(lambda: token in h.settled)
    os.kill(pid, signal.SIGUSR1)
    h.run_until(lambda: len(h.table) == 1 and h.uep().process.pid != pid)
    h.run_until(lambda: h.uep().state is UepState.RUNNING)


def test_L1_caps_are_exact_under_many_parallel_starts(
    make: Make, harper: User, jessie: User
) -> None:
    h = make(rules={"max_ueps": 9, "max_ueps_per_user": 4})
    tokens = {h.request(ask(user)) for _ in range(13) for user in (harper, jessie)}
    h.run_until(lambda: tokens <= set(h.settled), 90)
    per_user = {u.user for u in h.table}
    assert {n: sum(1 for u in h.table if u.user == n) for n in per_user} == {
        harper.name: 4, jessie.name: 4,
    }  # fmt: skip
    assert len(h.notices) == 26 - 8
    assert all("too many user endpoints" in t for t in h.texts())


def test_L3_start_timeout_bounds_a_uep_that_never_reports(make: Make, harper: User) -> None:
    h = make("import time\ntime.sleep(600)\n", rules={"start_timeout": 1.0})
    token = h.request(ask(harper))
    h.run_until(lambda: token in h.settled)
    assert "did not start in time" in h.texts()[0] and not len(h.table)


def test_I6_start_timeout_bounds_a_mapper(make: Make, harper: User, tmp_path: Path) -> None:
    h = make(rules={"start_timeout": 1.0}, mappings=(hanging_mapper(tmp_path),))
    token = h.request(ask(harper))
    pid = h.uep().child.pid
    h.run_until(lambda: process.descendants(pid))
    family = process.descendants(pid)
    h.run_until(lambda: token in h.settled)
    wait_for(lambda: all(is_gone(p.pid) for p in family), 2)


def test_I7_a_hanging_mapper_delays_nobody_else(
    make: Make, harper: User, jessie: User, tmp_path: Path
) -> None:
    mapper = tmp_path / "m.py"
    mapper.write_text(
        "#!/usr/bin/python3 -I\nimport json, sys, time\nd = json.load(sys.stdin)['identities'][0]\n"
        f"if {harper.name!r} in d['username']: time.sleep(300)\n"
        "print(json.dumps({'DATA_TYPE': 'identity_mapping_output#1.0.0', 'result':"
        " [{'id': d['id'], 'output': d['username'].split('@')[0]}]}))\n"
    )
    mapper.chmod(0o755)
    document = {"DATA_TYPE": "external_identity_mapping#1.0.0", "command": [str(mapper)]}
    h = make(mappings=(document,))
    slow = h.request(ask(harper))
    others = {h.request(ask(jessie)) for _ in range(5)}
    h.run_until(lambda: others <= set(h.settled))
    assert slow not in h.settled and not h.notices


def test_a_uep_that_dies_before_its_first_report(make: Make, harper: User) -> None:
    h = make("raise SystemExit(3)\n")
    token = h.request(ask(harper))
    h.run_until(lambda: token in h.settled)
    assert h.texts() == [f"Unable to start user endpoint process for {harper.name} [exit code: 3]"]


@pytest.mark.parametrize(
    "body",
    [
        "raise SystemExit(0)\n",
        "import os, signal, time\nsignal.signal(signal.SIGTERM, lambda *_: os._exit(0))\n"
        "os.write(5, b'\\xff' * 8)\ntime.sleep(600)\n",
    ],
    ids=["by itself", "for what it said"],
)
def test_a_uep_that_ends_well_before_its_first_report_is_not_begun_again(
    make: Make, harper: User, body: str
) -> None:
    """Such as a wrapper script that leaves it in the background."""
    h = make(body)
    token = h.request(ask(harper))
    h.run_until(lambda: token in h.settled or h.endpoint.starts > 1)
    assert h.endpoint.starts == 1 and not len(h.table)
    assert h.texts() == [f"Unable to start user endpoint process for {harper.name} [exit code: 0]"]


def test_R5_a_running_uep_killed_by_a_signal_is_told(make: Make, harper: User) -> None:
    h = make()
    h.request(ask(harper))
    h.run_until(lambda: h.settled)
    os.kill(h.uep().process.pid, signal.SIGSEGV)
    h.run_until(lambda: h.notices)
    assert h.texts() == [
        f"User endpoint process for {harper.name} ended unexpectedly [terminated by signal 11]"
    ]


def test_R4_one_that_ignores_sigterm_is_killed_at_the_deadline(make: Make, harper: User) -> None:
    body = REPORTER + (
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "if os.fork() == 0:\n    os.setsid()\n    time.sleep(600)\n"
        "report()\ntime.sleep(600)\n"
    )
    h = make(body)
    h.request(ask(harper))
    h.run_until(lambda: h.settled)
    family = [h.uep().process, *process.descendants(h.uep().process.pid)]
    assert len(family) == 2
    h.stopper.stop(h.uep(), "test")
    h.run_until(lambda: not len(h.table), 5)
    wait_for(lambda: all(is_gone(p.pid) for p in family), 2)


@pytest.mark.parametrize("way", ["silent", "stopped", "without its lifeline"])
def test_R4_one_that_is_silent_is_reaped_as_hung(make: Make, harper: User, way: str) -> None:
    stops = {"stopped": "os.kill(os.getpid(), signal.SIGSTOP)\n", "silent": ""}
    stop = stops.get(way, "s.close()\n")
    body = REPORTER + f"report(heartbeat_period=0.1)\n{stop}time.sleep(600)\n"
    h = make(body)
    h.request(ask(harper))
    h.run_until(lambda: h.settled)
    uep = h.uep()

    def reaped() -> bool:
        h.stopper.reap_idle()
        return not len(h.table)

    h.run_until(reaped, 10)
    assert uep.stop_reason.startswith("hung") and "ended unexpectedly" in h.texts()[0]


def test_R2_double_forked_descendants_are_killed_when_their_uep_has_gone(
    make: Make, harper: User, tmp_path: Path
) -> None:
    tmp_path.chmod(0o777)
    out = tmp_path / "pid"
    body = REPORTER + (
        "if os.fork() == 0:\n"
        "    os.setsid()\n"
        "    if os.fork() == 0:\n"
        f"        open({str(out)!r}, 'w').write(str(os.getpid()))\n"
        "        time.sleep(600)\n"
        "    os._exit(0)\n"
        "os.wait()\n"
        f"while not os.path.exists({str(out)!r}): time.sleep(0.01)\n"
        "report()\n"
    )
    h = make(body)
    h.request(ask(harper))
    h.run_until(lambda: h.settled and not len(h.table))
    stray = int(wait_for(out.read_text, 5))
    h.run_until(lambda: is_gone(stray), 5)


def test_R3_the_launcher_and_its_siblings_are_untouched(make: Make, harper: User) -> None:
    import subprocess

    sibling = subprocess.Popen(["sleep", "60"])
    h = make()
    h.request(ask(harper))
    h.run_until(lambda: h.settled)
    assert os.getpgid(h.uep().process.pid) != os.getpgid(0)
    h.stopper.kill(h.uep(), "test")
    h.run_until(lambda: not len(h.table))
    # The sibling is a child of this process that no table knows: older than the reaper.
    assert sibling.poll() is None
    sibling.kill()
    sibling.wait()


def test_R6_fork_refused_is_answered_and_the_next_start_works(
    make: Make, harper: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    h = make()
    before = descriptors()
    for number in (11, 12, 24):

        def refuse(_child: Callable[[], int], number: int = number) -> int:
            raise OSError(number, os.strerror(number))

        with monkeypatch.context() as m:
            m.setattr(process, "fork", refuse)
            token = h.request(ask(harper))
            h.run_until(lambda token=token: token in h.settled)  # type: ignore[misc]
        assert "the system is out of resources" in h.texts()[-1]
    assert descriptors() == before
    token = h.request(ask(harper))
    h.run_until(lambda: token in h.settled)
    assert h.uep().state is UepState.RUNNING


def test_R6_no_descriptor_left_is_answered_at_each_step(make: Make, harper: User) -> None:
    """EMFILE wherever a start needs one more: that start fails, and the next one works."""
    h = make()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    gc.collect()
    highest = max(int(n) for n in os.listdir("/proc/self/fd"))
    stuffing = [os.open("/dev/null", os.O_RDONLY)]
    while stuffing[-1] < highest:  # no gaps below
        stuffing.append(os.open("/dev/null", os.O_RDONLY))
    before = descriptors()
    outcomes = []
    for spare in range(1, 14):
        resource.setrlimit(resource.RLIMIT_NOFILE, (stuffing[-1] + spare, hard))
        try:
            token = h.request(ask(harper))
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        h.run_until(lambda token=token: token in h.settled)  # type: ignore[misc]
        outcomes.append(len(h.table) == 1)
        for uep in list(h.table):
            h.stopper.kill(uep, "test")
        h.run_until(lambda: not len(h.table))
        assert descriptors() == before
    assert outcomes[0] is False and outcomes[-1] is True
    assert outcomes == sorted(outcomes) and len(h.texts()) == outcomes.count(False)
    assert "the system is out of resources" in h.texts()[0]
    assert all("Unable to start user endpoint process" in text for text in h.texts())
    for fd in stuffing:
        os.close(fd)
    token = h.request(ask(harper))
    h.run_until(lambda: token in h.settled)
    assert h.uep().state is UepState.RUNNING


@contextlib.contextmanager
def no_descriptor_left() -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    gc.collect()
    lowest = os.open("/dev/null", os.O_RDONLY)
    os.close(lowest)
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest, hard))
    try:
        with pytest.raises(OSError, match="Too many open files"):
            os.open("/dev/null", os.O_RDONLY)
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.parametrize("how", ["stop", "kill", "stop_all"])
def test_R6_with_no_descriptor_left_user_endpoints_can_be_ended(
    make: Make, harper: User, how: str
) -> None:
    h = make()
    tokens = [h.request(ask(harper)) for _ in range(3)]
    h.run_until(lambda: set(tokens) <= set(h.settled))
    first = next(iter(h.table))
    with no_descriptor_left():
        if how == "stop_all":
            h.stopper.stop_all("test", signal.SIGTERM)
        elif how == "kill":
            h.stopper.kill(first, "test")
        else:
            h.stopper.stop(first, "test")
        h.run_until(lambda: len(h.table) == (0 if how == "stop_all" else 2))
        h.run_until(lambda: is_gone(first.process.pid))
        assert first not in h.table
    tokens.append(h.request(ask(harper)))
    h.run_until(lambda: tokens[-1] in h.settled)
    assert h.texts() == []


def test_R6_no_descriptor_left_for_a_start_that_hangs(make: Make, harper: User) -> None:
    h = make("import time\ntime.sleep(600)\n", rules={"start_timeout": 1.0})
    token = h.request(ask(harper))
    h.run_until(lambda: h.uep().state is UepState.STARTING)
    with no_descriptor_left():
        h.run_until(lambda: token in h.settled)
    assert "did not start in time" in h.texts()[0]


def test_E8_names_are_of_one_form_and_belong_to_the_endpoint(make: Make, harper: User) -> None:
    from mepd.wire.worker import StartRequested
    from mepd.wire import start_request

    h, request = make(), ask(harper)
    good = start_request.to_json(request)
    other = "00000000-0000-4000-8000-000000000000"
    for name in (
        "", "x", "uep.x.y", f"uep.{request.mep_id}.{other}", f"{request.name}\n",
        f"../{request.name}", f"uep.{other}.{request.uep_id}", request.name.upper(),
    ):  # fmt: skip
        h.starts.requested(StartRequested(name, "test", {**good, "name": name}))
    h.run_until(lambda: len(h.settled) == 8)
    assert not len(h.table) and h.endpoint.starts == 0


def test_T14_F5_the_log_is_opened_as_the_user(make: Make, harper: User, tmp_path: Path) -> None:
    """A link, a FIFO or a folder in its place ends the start; nothing of root's is touched."""
    target = tmp_path / "roots"
    target.write_text("untouched")
    target.chmod(0o600)
    for kind in ("link", "dangling", "fifo", "folder"):
        h, request = make(), ask(harper)
        folder = Path(harper.home) / ".globus_compute" / request.name
        folder.mkdir(parents=True)
        log = folder / "endpoint.log"
        if kind == "link":
            log.symlink_to(target)
        elif kind == "dangling":
            log.symlink_to(tmp_path / "made")
        elif kind == "fifo":
            os.mkfifo(log)
        else:
            log.mkdir()
        for item in (folder.parent, folder, log):
            os.chown(item, harper.uid, harper.gid, follow_symlinks=False)
        token = h.request(request)
        h.run_until(lambda h=h, token=token: token in h.settled)  # type: ignore[misc]
        assert "[exit code: 84;" in h.texts()[0], (kind, h.texts())
    assert target.read_text() == "untouched" and not (tmp_path / "made").exists()


def test_a_missing_home_is_named(make: Make, caplog: pytest.LogCaptureFixture) -> None:
    from tests.conftest import make_user, remove_user

    user = make_user()
    os.rename(user.home, f"{user.home}.away")
    try:
        h = make()
        token = h.request(ask(user))
        h.run_until(lambda: token in h.settled)
        assert "[exit code: 79;" in h.texts()[0]
        assert "folder of the UEP below" in caplog.text
    finally:
        os.rename(f"{user.home}.away", user.home)
        remove_user(user)


def test_P1_with_pam_in_the_master(make: Make, harper: User, tmp_path: Path) -> None:
    """The session process is the master's child; the UEP is what is signalled."""
    name = f"mepd-test-{secrets.token_hex(4)}"
    path = Path("/etc/pam.d") / name
    record = tmp_path / "record"
    script = tmp_path / "r.sh"
    script.write_text(f"#!/bin/sh\necho $PAM_TYPE >> {record}\n")
    script.chmod(0o755)
    path.write_text(f"account required pam_permit.so\nsession required pam_exec.so {script}\n")
    try:
        h = make(pam_enable=True, pam_service=name)
        token = h.request(ask(harper))
        h.run_until(lambda: token in h.settled)
        uep = h.uep()
        assert uep.child != uep.process and os.stat(f"/proc/{uep.child.pid}").st_uid == 0
        h.stopper.stop(uep, "test")
        h.run_until(lambda: not len(h.table))
        assert record.read_text().split() == ["open_session", "close_session"]
    finally:
        path.unlink()


HOSTILE = {
    "a length of 4 GB": "s.sendall(b'\\xff' * 8)",
    "no JSON": "s.sendall(struct.pack('>I', 3) + b'{{{')",
    "another kind": "report(kind='Refreshed')",
    "infinity": "report(last_move=float('1e999'))",
    "an integer of 4,000 digits": "report(heartbeat_period=10**4000 // 1)",
    "a period without end": "report(heartbeat_period=1e9)",
    "a period of next to nothing": "report(heartbeat_period=1e-320)",
    "a negative count": "report(outstanding=-1)",
    "reports without end": "\nwhile True:\n    report()\n",
}


@pytest.mark.parametrize("what", HOSTILE)
def test_a_hostile_uep_is_stopped_and_others_are_not(
    make: Make, harper: User, jessie: User, what: str
) -> None:
    """What it says ends in no exception, and its silence afterwards is no way to stay."""
    body = (
        REPORTER.replace("json.dumps", "(lambda v: json.dumps(v).replace('Infinity', '1e999'))")
        + "for n in (signal.SIGTERM, signal.SIGPIPE):\n    signal.signal(n, signal.SIG_IGN)\n"
        + "sys.set_int_max_str_digits(0)\nreport()\n"
        + f"if os.getuid() == {harper.uid}:\n    try:\n"
        + textwrap.indent(HOSTILE[what], "        ")
        + "\n    except OSError:\n        pass\ntime.sleep(600)\n"
    )
    h = make(body)
    good = h.request(ask(jessie))
    h.run_until(lambda: good in h.settled)
    bad = h.request(ask(harper))
    h.run_until(lambda: bad in h.settled and len(h.table) == 1)
    h.stopper.reap_idle()
    assert (h.uep().user, h.uep().state) == (jessie.name, UepState.RUNNING)
