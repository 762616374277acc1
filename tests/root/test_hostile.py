"""Mappers, user endpoints and their descendants that mean harm to the master or to others."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from mepd.posix import process
from tests.conftest import User, is_gone, need_root, wait_for
from tests.root import launching, pammodule
from tests.root.masterparts import REPORTER, Harness


Make = Callable[..., Harness]


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Make]:
    made: list[Harness] = []

    def build(body: str, **rules: Any) -> Harness:
        snap = launching.snapshot(launching.script(tmp_path, body))
        made.append(Harness(snap, **rules))
        return made[-1]

    yield build
    for harness in made:
        harness.close()


def ask(user: User, **changes: Any) -> Any:
    return launching.request(f"{user.name}@example.org", **changes)


def test_I6_a_mapper_that_reads_nothing_maps_in_a_launch_child(
    harper: User, tmp_path: Path
) -> None:
    """A launch child has default signals; writing to a closed pipe must not be its death."""
    who = {"id": "a", "sub": "a", "username": "x", "status": "used", "more": "y" * 200_000}
    answer = {
        "DATA_TYPE": "identity_mapping_output#1.0.0",
        "result": [{"id": "a", "output": harper.name}],
    }
    mapper = tmp_path / "mapper"
    mapper.write_text(f"#!/bin/sh\nexec 0<&-\nsleep 0.2\necho '{json.dumps(answer)}'\n")
    mapper.chmod(0o755)
    document = {"DATA_TYPE": "external_identity_mapping#1.0.0", "command": [str(mapper)]}
    snap = launching.snapshot(launching.script(tmp_path, "pass"), mappings=(document,))
    outcome = launching.run(launching.plan(snap, ask(harper, identity_set=(who,))))
    assert outcome.mapped is not None and outcome.mapped.user == harper.name
    assert outcome.code == 0


def test_P1_a_master_that_dies_while_the_session_opens(harper: User, tmp_path: Path) -> None:
    need_root()
    record, opening = tmp_path / "record", tmp_path / "opening"
    script = tmp_path / "record.sh"
    script.write_text(
        f'#!/bin/sh\necho $PAM_TYPE >> {record}\n[ $PAM_TYPE = open_session ] || exit 0\n'
        f"touch {opening}\nwhile [ -e {opening} ]; do sleep 0.05; done\n"
    )
    script.chmod(0o755)
    lines = ("account required pam_permit.so", f"session required pam_exec.so seteuid {script}")
    with pammodule.service(*lines) as service:
        command = launching.script(tmp_path, "import time; time.sleep(600)")
        snap = launching.snapshot(command, pam_enable=True, pam_service=service)
        launch = launching.Launch(launching.plan(snap, ask(harper)))
        try:
            launch.stages_until_mapped()
            wait_for(opening.exists, 10)
            assert launch.launched.lifeline is not None
            for sock in (launch.launched.stages, launch.launched.lifeline):
                sock.close()  # as the kernel closes a dead master's
            opening.unlink()
            launch.wait()
            assert record.read_text().split() == ["open_session", "close_session"]
        finally:
            launch.close()


def test_R1_a_hanging_mapper_and_what_it_forked_do_not_outlive_the_master(
    harper: User, tmp_path: Path
) -> None:
    pids = tmp_path / "pids"
    mapper = tmp_path / "mapper"
    mapper.write_text(f"#!/bin/sh\nsleep 300 &\necho $$ $! > {pids}\nwait\n")
    mapper.chmod(0o755)
    document = {"DATA_TYPE": "external_identity_mapping#1.0.0", "command": [str(mapper)]}
    snap = launching.snapshot(launching.script(tmp_path, "pass"), mappings=(document,))

    def master() -> int:
        launching.Launch(launching.plan(snap, ask(harper)))
        time.sleep(600)
        return 0

    pid = process.fork(master)
    seen = wait_for(lambda: pids.exists() and pids.read_text().split(), 20)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    wait_for(lambda: all(is_gone(int(p)) for p in seen), 5, "the mapper's end")


def test_R2_a_descendant_that_forks_and_exits_without_end_is_caught(
    make: Make, harper: User, tmp_path: Path
) -> None:
    runner = pammodule.program(tmp_path, "runner", pammodule.RUNNER)
    h = make(REPORTER + f"report()\nif os.fork() == 0: os.execv({str(runner)!r}, ['runner'])\n")

    def running() -> bool:
        return any(_uid(p.pid) == harper.uid for p in process.descendants(os.getpid()))

    for _ in range(10):
        token = h.request(ask(harper))
        h.run_until(lambda: token in h.settled and not len(h.table))  # noqa: B023
        h.run_until(lambda: not running() and not h.reaper.strays(), 10)
        h.run_until(lambda: not running(), 10)


def _uid(pid: int) -> int:
    try:
        return os.stat(f"/proc/{pid}").st_uid
    except OSError:
        return -1


def test_R3_anothers_end_leaves_the_orphans_of_a_living_uep_alone(
    make: Make, harper: User, jessie: User, tmp_path: Path
) -> None:
    """Daemons that a task started: what Parsl runs locally is one."""
    tmp_path.chmod(0o777)
    body = REPORTER + (
        "if os.fork() == 0:\n"
        "    os.setsid()\n"
        "    if os.fork() == 0:\n"
        f"        open({str(tmp_path)!r} + f'/{{os.getuid()}}', 'w').write(str(os.getpid()))\n"
        "        time.sleep(600)\n"
        "    os._exit(0)\n"
        "os.wait()\n"
        f"while not os.path.exists({str(tmp_path)!r} + f'/{{os.getuid()}}'): time.sleep(0.01)\n"
        "report()\ntime.sleep(600)\n"
    )
    h = make(body)
    ueps = {}
    for user in (harper, jessie):
        request = ask(user)
        token = h.request(request)
        h.run_until(lambda token=token: token in h.settled)  # type: ignore[misc]
        ueps[user.uid] = h.table.get(request.name)
    daemons = {u: int(wait_for((tmp_path / str(u)).read_text, 5)) for u in ueps}
    for uid in (harper.uid, jessie.uid):
        others = [d for u, d in daemons.items() if u != uid and len(h.table) == 2]
        h.stopper.stop(ueps[uid], "test")
        h.run_until(lambda uid=uid: is_gone(daemons[uid]))  # type: ignore[misc]
        assert not any(map(is_gone, others))


def test_R4_one_whose_end_is_kept_by_its_tracer_is_ended(make: Make, harper: User) -> None:
    """The tracer is no descendant any more, has a session of its own, and never waits."""
    h = make(
        REPORTER
        + """
import ctypes
me = os.getpid()
r, w = os.pipe()
if os.fork() == 0:
    os.setsid()
    if os.fork():
        os._exit(0)
    s.close()
    os.write(w, b"%d" % ctypes.CDLL(None).ptrace(0x4206, me, None, None))
    time.sleep(600)
assert os.read(r, 8) == b"0"
report()
time.sleep(600)
"""
    )
    token = h.request(ask(harper))
    h.run_until(lambda: token in h.settled)
    h.stopper.stop(h.uep(), "enough")
    h.run_until(lambda: not len(h.table), 10)
