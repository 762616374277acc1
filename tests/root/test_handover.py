"""What a UEP is given at the end of its start, by what is configured."""

from __future__ import annotations

import dataclasses
import json
import os
import pwd
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mepd.launch import resolve
from mepd.model import Stage
from mepd.posix.rlimits import Limit
from tests.conftest import User, need_root
from tests.root import launching

PROBE = """
import json, os, socket
fds = sorted(int(f) for f in os.listdir("/proc/self/fd"))
out = {"stdin": json.load(open(0)), "environ": dict(os.environ), "fds": fds}
socket.socket(fileno=5).sendall(json.dumps(out).encode())
"""
PAM_LINES = "account required pam_permit.so\nsession required pam_permit.so\n"


@pytest.fixture
def pam_service() -> Iterator[str]:
    need_root()
    path = Path(f"/etc/pam.d/mepd-test-handover-{os.getpid()}")
    path.write_text(PAM_LINES)
    yield path.name
    path.unlink()


def own_program(folder: Path, body: str) -> tuple[str, ...]:
    """A program by the name of mepd's own."""
    python, _, script = launching.script(folder, body)
    program = folder / "mepd-uep"
    program.write_text(f'#!/bin/sh\nexec {python} -I {script} "$@"\n')
    program.chmod(0o755)
    return (str(program), "start", "{name}")


def log_of(user: User, name: str) -> str:
    return Path(user.home, ".globus_compute", name, "endpoint.log").read_text()


def start(user: User, command: tuple[str, ...], **changes: Any) -> dict[str, Any]:
    """Launch, and what the UEP reports of itself."""
    runtime = changes.pop("user_runtime", {})
    snap = launching.snapshot(command, **changes)
    req = launching.request(f"{user.name}@example.org", user_runtime=runtime)
    launch = launching.Launch(launching.plan(snap, req))
    try:
        outcome = launch.stages()
        assert outcome.failed is None, outcome.failed
        told = launch.notify_all()
        launch.wait()
        assert told, log_of(user, req.name)
        seen: dict[str, Any] = json.loads(told)
        return {**seen, "log": log_of(user, req.name)}
    finally:
        launch.close()


def fails(user: User, command: tuple[str, ...], **changes: Any) -> launching.Outcome:
    snap = launching.snapshot(command, **changes)
    req = launching.request(f"{user.name}@example.org")
    outcome = launching.run(launching.plan(snap, req))
    assert outcome.failed is not None
    return outcome


def test_mepd_uep_needs_no_parser(harper: User, tmp_path: Path) -> None:
    """It has the values beside the text; another program has the text alone."""
    given = start(harper, own_program(tmp_path, PROBE))["stdin"]
    assert given["config"] == launching.TEMPLATE.rstrip()
    assert given["config_values"]["engine"] == {"type": "ThreadPoolEngine"}
    other = start(harper, launching.script(tmp_path, PROBE))["stdin"]
    assert other["config"] == launching.TEMPLATE.rstrip() and "config_values" not in other


def test_the_researchers_versions_are_in_the_environment(harper: User, tmp_path: Path) -> None:
    command = launching.script(tmp_path, PROBE)
    runtime = {"python": {"version": "3.12.1"}, "globus_compute_sdk_version": "4.19.0"}
    environ = start(harper, command, user_runtime=runtime)["environ"]
    assert environ["GC_USER_PYTHON_VERSION"] == "3.12.1"
    assert environ["GC_USER_SDK_VERSION"] == "4.19.0"
    hostile = {"python": {"version": "3\n12"}, "globus_compute_sdk_version": "x" * 64}
    environ = start(harper, command, user_runtime=hostile)["environ"]
    assert not {"GC_USER_PYTHON_VERSION", "GC_USER_SDK_VERSION"} & environ.keys()
    own = start(
        harper, command, user_runtime=runtime, environment={"GC_USER_PYTHON_VERSION": "3.11"}
    )["environ"]
    assert own["GC_USER_PYTHON_VERSION"] == "3.11", "the site's word counts"


def test_debug_shows_the_configuration_in_the_users_log(harper: User, tmp_path: Path) -> None:
    command = launching.script(tmp_path, PROBE)
    shown = "  | idle_heartbeats_soft: 10\n"
    assert shown in start(harper, command, template=launching.TEMPLATE + "debug: true\n")["log"]
    assert shown not in start(harper, command)["log"]


@pytest.mark.parametrize("pam", [False, True])
def test_an_audited_uep_has_one_more_descriptor(
    harper: User, tmp_path: Path, pam_service: str, pam: bool
) -> None:
    command = own_program(tmp_path, PROBE)
    keys: dict[str, Any] = {"pam_enable": pam, "pam_service": pam_service}
    plain = start(harper, command, **keys)
    audited = start(harper, command, audit_log_path=tmp_path / "audit.log", **keys)
    (more,) = set(audited["fds"]) - set(plain["fds"])
    assert audited["stdin"]["audit_fd"] == more and "audit_fd" not in plain["stdin"]


@pytest.mark.parametrize("pam", [False, True])
def test_a_program_that_is_not_there(
    harper: User, tmp_path: Path, pam_service: str, pam: bool
) -> None:
    outcome = fails(
        harper, ("no-such-program", "{name}"), pam_enable=pam, pam_service=pam_service
    )
    assert outcome.failed is not None and outcome.code == int(Stage.EXEC)
    assert (outcome.failed.stage, outcome.failed.code) == ("EXEC", int(Stage.EXEC))
    assert "no-such-program" in outcome.failed.reason
    assert "no-such-program" not in outcome.failed.public or "PATH" not in outcome.failed.public
    assert (outcome.session is not None) is pam


@pytest.mark.parametrize("path", [".", "", ":", ":/usr/bin", "/nowhere::", "bin:/usr/bin"])
def test_no_program_of_the_users_own_stands_in(harper: User, path: str) -> None:
    """A start begins in the user's home: what PATH finds there is not the site's program."""
    home = Path(pwd.getpwnam(harper.name).pw_dir)
    for program in (home / "stand-in", home / "bin/stand-in"):
        program.parent.mkdir(exist_ok=True)
        program.write_text("#!/bin/sh\nexit 0\n")
        program.chmod(0o755)
    outcome = fails(harper, ("stand-in", "{name}"), environment={"PATH": path})
    assert outcome.failed is not None and outcome.failed.stage == "EXEC"
    assert "no executable 'stand-in' for this user" in outcome.failed.reason


@pytest.mark.parametrize(
    ("text", "mode"),
    [("", 0o755), ("#!/no/such\n", 0o755), ("#!/bin/sh\r\n", 0o755), ("\x7fELF", 0o755),
     ("x", 0o644), (None, 0o755)],
)  # fmt: skip
def test_a_program_that_cannot_be_executed_is_named(
    harper: User, tmp_path: Path, text: str | None, mode: int
) -> None:
    launching.script(tmp_path, "")  # so that the user reaches the folder
    program = tmp_path / "program"
    program.write_text(text) if text is not None else os.mkfifo(program)
    program.chmod(mode)
    outcome = fails(harper, (str(program), "{name}"))
    assert outcome.failed is not None and outcome.code == int(Stage.EXEC)
    assert str(program) in outcome.failed.reason


def test_what_nobody_thought_of_fails_the_start(
    harper: User, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An exception that is no stage's is told to the administrator, not to the user."""

    def defect(_: Any) -> Any:
        raise KeyError("a secret place")

    monkeypatch.setattr(resolve, "resolve", defect)  # the launch child inherits it
    outcome = fails(harper, launching.script(tmp_path, PROBE))
    assert outcome.failed is not None and outcome.failed.stage == "PREPARE"
    assert "KeyError" in outcome.failed.reason and "secret" not in outcome.failed.public
    assert outcome.code == int(Stage.PREPARE) and outcome.mapped is None


def test_a_request_of_a_master_that_is_gone(harper: User, tmp_path: Path) -> None:
    """Nobody is there to say yes: it is no."""
    what = launching.plan(
        launching.snapshot(launching.script(tmp_path, PROBE)),
        launching.request(f"{harper.name}@example.org"),
    )
    launch = launching.Launch(dataclasses.replace(what))
    launch.launched.stages.close()
    assert launch.wait().code in (0, int(Stage.PREPARE))
    assert launch.notify_all() == b"", "the UEP never was"
    launch.close()


def test_D2_a_document_beyond_the_limit_fsize_names_its_stage(
    harper: User, tmp_path: Path
) -> None:
    snap = launching.snapshot(
        launching.script(tmp_path, PROBE), limits=(Limit("fsize", 1000, 1000),)
    )
    asked = launching.request(f"{harper.name}@example.org")
    outcome = launching.run(launching.plan(snap, asked))
    assert outcome.failed is not None and outcome.failed.stage == Stage.STDIN.name
    assert outcome.code == int(Stage.STDIN)
