"""What a UEP has, and has not, after the launch child became the user."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
from pathlib import Path
from typing import Any

import psutil
import pytest

from mepd.model import Stage
from mepd.posix import accounts, syscalls
from mepd.posix.rlimits import Limit
from tests.conftest import User
from tests.root import launching, pammodule

PROBE = """
import json, os, psutil, signal, resource, socket
out = {}
for line in open("/proc/self/status"):
    key, _, value = line.partition(":")
    out[key] = value.split()
def attempt(call, *args):
    try:
        call(*args)
        return "worked"
    except OSError as e:
        return e.errno
out["regain"] = [attempt(c, 0) for c in (os.setuid, os.setgid, os.seteuid, os.setegid)]
out["regain"].append(attempt(os.setgroups, [0]))
out["groups"] = sorted(os.getgroups())
out["links"] = {}
for f in os.listdir("/proc/self/fd"):  # the listing's own descriptor is closed by now
    if os.path.lexists(f"/proc/self/fd/{f}"):
        out["links"][f] = os.readlink(f"/proc/self/fd/{f}")
out["fds"] = sorted(map(int, out["links"]))
out["sid"] = os.getsid(0) == os.getpid()
out["umask"] = os.umask(0)
out["nice"] = os.nice(0)
out["policy"] = os.sched_getscheduler(0)
out["ionice"] = psutil.Process().ionice().ioclass
out["oom"] = int(open("/proc/self/oom_score_adj").read())
out["environ"] = dict(os.environ)
out["cwd"] = os.getcwd()
out["stdin"] = json.load(open(0))
out["core"] = resource.getrlimit(resource.RLIMIT_CORE)
out["nofile"] = resource.getrlimit(resource.RLIMIT_NOFILE)
out["nproc"] = resource.getrlimit(resource.RLIMIT_NPROC)
numbers = [s for s in range(1, 65) if s not in (9, 19, 32, 33)]
out["ignored"] = [s for s in numbers if signal.getsignal(s) == signal.SIG_IGN]
socket.socket(fileno=5).sendall(json.dumps(out).encode())
"""


def probe(user: User, folder: Path, **changes: Any) -> dict[str, Any]:
    """Launch a UEP that reports what it is."""
    snap = launching.snapshot(launching.script(folder, PROBE), **changes)
    launch = launching.Launch(launching.plan(snap, launching.request(f"{user.name}@example.org")))
    try:
        outcome = launch.stages()
        assert outcome.failed is None, outcome.failed
        seen: dict[str, Any] = json.loads(launch.notify_all())
        launch.wait()
        return seen
    finally:
        launch.close()


def test_D1_ids_groups_capabilities(harper: User, tmp_path: Path) -> None:
    seen = probe(harper, tmp_path)
    assert seen["Uid"] == [str(harper.uid)] * 4
    assert seen["Gid"] == [str(harper.gid)] * 4
    wanted = subprocess.run(["id", "-G", harper.name], capture_output=True, text=True, check=True)
    assert seen["groups"] == sorted(map(int, wanted.stdout.split()))
    for which in ("CapInh", "CapPrm", "CapEff", "CapAmb", "CapBnd"):
        assert int(seen[which][0], 16) == 0, which
    assert seen["NoNewPrivs"] == ["1"]


def test_D1_D3_with_pam(harper: User, tmp_path: Path) -> None:
    """No capability either, and no way back; set-user-ID programs are the site's affair."""
    lines = ("account required pam_permit.so", "session required pam_permit.so")
    with pammodule.service(*lines) as service:
        seen = probe(harper, tmp_path, pam_enable=True, pam_service=service)
    assert seen["Uid"] == [str(harper.uid)] * 4 and seen["Gid"] == [str(harper.gid)] * 4
    assert seen["groups"] == sorted(os.getgrouplist(harper.name, harper.gid))
    for which in ("CapInh", "CapPrm", "CapEff", "CapAmb"):
        assert int(seen[which][0], 16) == 0, which
    assert seen["regain"] == [1, 1, 1, 1, 1] and seen["fds"] == [0, 1, 2, 5, 6]
    assert seen["sid"] and seen["umask"] == 0o077 and seen["core"] == [0, 0]


def test_D3_root_cannot_be_regained(harper: User, tmp_path: Path) -> None:
    assert probe(harper, tmp_path)["regain"] == [1, 1, 1, 1, 1]


def test_session_umask_environment(harper: User, tmp_path: Path) -> None:
    os.environ["CANARY_OF_ROOT"] = "secret"
    try:
        seen = probe(harper, tmp_path, environment={"SITE": "x y", "HOME": "/elsewhere"})
    finally:
        del os.environ["CANARY_OF_ROOT"]
    env = seen["environ"]
    assert "CANARY_OF_ROOT" not in env
    assert (env["HOME"], env["USER"], env["SITE"]) == (harper.home, harper.name, "x y")
    assert env["SHELL"] == "/bin/bash" and env["LOGNAME"] == harper.name
    assert seen["sid"] and seen["umask"] == 0o077 and seen["cwd"] == harper.home
    assert seen["core"] == [0, 0]


def test_F1_descriptors_are_exactly_the_agreed_ones(harper: User, tmp_path: Path) -> None:
    opened = [os.open(os.devnull, os.O_RDONLY) for _ in range(500)]
    try:
        for fd in opened:
            os.set_inheritable(fd, True)
        seen = probe(harper, tmp_path)
    finally:
        for fd in opened:
            os.close(fd)
    assert seen["fds"] == [0, 1, 2, 5, 6]
    assert seen["links"]["0"].startswith("/memfd:")
    assert seen["links"]["1"].endswith("/endpoint.log") == seen["links"]["2"].endswith(".log")
    assert seen["links"]["5"].startswith("socket:")
    assert seen["links"]["6"].startswith("/memfd:") and seen["stdin"]["mem_fd"] == 6


@pytest.mark.parametrize("when", ["acct", "setcred", "open"])
def test_F1_what_a_module_leaves_open_is_not_the_ueps(
    harper: User, tmp_path: Path, when: str
) -> None:
    """It opened it as root, and for every program to inherit."""
    module = pammodule.build(tmp_path)
    lines = pammodule.misbehaving(module, "leave", when, harper.name)
    with pammodule.service(*lines) as service:
        seen = probe(harper, tmp_path, pam_enable=True, pam_service=service)
    assert seen["fds"] == [0, 1, 2, 5, 6], seen["links"]


def test_F3_a_large_stdin_document_is_delivered(harper: User, tmp_path: Path) -> None:
    text = launching.TEMPLATE + "".join(f"# {'x' * 70}\n" for _ in range(12000))
    seen = probe(harper, tmp_path, template=text)
    assert len(seen["stdin"]["config"]) > 800_000
    assert seen["stdin"]["notify_fd"] == 5


def test_T10_T12_D6_signals_scheduling_limits(harper: User, tmp_path: Path) -> None:
    """What the master ignores, blocks and is given is not for the UEP."""
    pid = os.fork()
    if not pid:
        code = 1
        try:
            os.nice(-5)
            Path("/proc/self/oom_score_adj").write_text("300")
            resource.setrlimit(resource.RLIMIT_NOFILE, (12345, 12345))
            for number in (signal.SIGPIPE, signal.SIGXFSZ, signal.SIGHUP):
                signal.signal(number, signal.SIG_IGN)
            signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM, signal.SIGUSR1])
            seen = probe(harper, tmp_path)
            assert int(seen["SigBlk"][0], 16) == 0
            # Python itself ignores SIGPIPE and SIGXFSZ at its start.
            assert set(seen["ignored"]) <= {signal.SIGPIPE, signal.SIGXFSZ}
            assert seen["nice"] == 0 and seen["oom"] == 0
            assert seen["nofile"] == [1024, 12345] and seen["core"] == [0, 0]
            code = 0
        except BaseException as e:
            print("child:", repr(e), flush=True)
        os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


@pytest.mark.parametrize("policy", ["SCHED_BATCH", "SCHED_IDLE", "SCHED_RR"])
def test_D6_the_usual_policy_whatever_the_masters(
    harper: User, tmp_path: Path, policy: str
) -> None:
    """As CPUSchedulingPolicy of systemd's or chrt(1) give it one."""
    pid = os.fork()
    if not pid:
        code = 1
        try:
            wanted = getattr(os, policy)
            os.sched_setscheduler(0, wanted, os.sched_param(wanted == os.SCHED_RR))
            psutil.Process().ionice(psutil.IOPRIO_CLASS_IDLE)
            seen = probe(harper, tmp_path)
            assert seen["policy"] == os.SCHED_OTHER and seen["nice"] == 0
            assert seen["ionice"] == psutil.IOPRIO_CLASS_NONE
            code = 0
        except BaseException as e:
            print("child:", repr(e), flush=True)
        os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def test_D6_limits_as_configured(harper: User, tmp_path: Path) -> None:
    limits = (Limit("nofile", 512, 2000), Limit("nproc", 300, 300), Limit("core", 4096, 8192))
    seen = probe(harper, tmp_path, limits=limits)
    assert seen["nofile"] == [512, 2000]
    assert seen["nproc"] == [300, 300]
    assert seen["core"] == [4096, 8192]


def test_a_limit_that_cannot_be_had_is_named(harper: User, tmp_path: Path) -> None:
    snap = launching.snapshot(
        launching.script(tmp_path, PROBE), limits=(Limit("nofile", 10, 2**40),)
    )
    launch = launching.Launch(launching.plan(snap, launching.request(f"{harper.name}@example.org")))
    try:
        failed = launch.stages().failed
        assert failed is not None and failed.code == Stage.PREPARE
        assert "limit nofile" in failed.reason
    finally:
        launch.close()


def test_D5_a_setuid_program_gives_nothing(harper: User, tmp_path: Path) -> None:
    tool = tmp_path / "id"
    tool.write_bytes(Path("/usr/bin/id").read_bytes())
    tool.chmod(0o4755)
    body = (
        "import socket, subprocess\n"
        f"out = subprocess.run([{str(tool)!r}, '-u'], capture_output=True).stdout\n"
        "socket.socket(fileno=5).sendall(out)\n"
    )
    snap = launching.snapshot(launching.script(tmp_path, body))
    launch = launching.Launch(launching.plan(snap, launching.request(f"{harper.name}@example.org")))
    try:
        assert launch.stages().failed is None
        assert launch.notify().split() == [str(harper.uid).encode()]
        launch.wait()
    finally:
        launch.close()


@pytest.mark.parametrize(
    ("where", "what", "stage"),
    [
        (accounts.os, "initgroups", Stage.INITGROUPS),
        (accounts.os, "setresgid", Stage.HOST_AUTH),
        (accounts.os, "setresuid", Stage.SETUID),
        (syscalls, "capset_none", Stage.HOST_AUTH),
        (syscalls, "set_no_new_privs", Stage.HOST_AUTH),
        (syscalls, "drop_bounding_set", Stage.HOST_AUTH),
    ],
)
@pytest.mark.parametrize("number", [1, 11, 12, 22])
def test_D2_a_failing_call_stops_the_start(
    harper: User,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    where: Any,
    what: str,
    stage: Stage,
    number: int,
) -> None:
    def fail(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(where, what, fail)
    marker = tmp_path / "ran"
    tmp_path.chmod(0o777)
    command = launching.script(tmp_path, f"open({str(marker)!r}, 'w')")
    outcome = launching.run(
        launching.plan(launching.snapshot(command), launching.request(f"{harper.name}@example.org"))
    )
    assert outcome.failed is not None and outcome.failed.stage == stage.name
    assert outcome.code == int(stage)
    assert f"[exit code: {int(stage)}; (PermissionError) see your" in outcome.failed.public
    assert not marker.exists()


def test_a_regained_uid_is_noticed(
    harper: User, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If only the effective uid changed, the proof fails and nothing is exec'ed."""
    monkeypatch.setattr(
        accounts, "set_uid", lambda account: os.setresuid(account.uid, account.uid, 0)
    )
    command = launching.script(tmp_path, "")
    outcome = launching.run(
        launching.plan(launching.snapshot(command), launching.request(f"{harper.name}@example.org"))
    )
    assert outcome.failed is not None and outcome.failed.stage == "REGAIN"
