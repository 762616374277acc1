"""P7, P2: variables and groups from PAM reach the user endpoint and nothing of root's."""

from __future__ import annotations

import grp
import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.conftest import User, need_root, require
from tests.root import launching, pammodule

Service = Callable[..., str]
# Whoever loads it says as whom.
LIBRARY = r"""
#include <fcntl.h>
#include <stdio.h>
#include <unistd.h>
__attribute__((constructor)) static void loaded(void)
{
    char line[64];
    int fd = open("%s", O_WRONLY | O_APPEND | O_CLOEXEC);
    int size = snprintf(line, sizeof line, "library %%d\n", (int)geteuid());
    if (fd >= 0) {
        if (write(fd, line, size) != size)
            _exit(9);
        close(fd);
    }
}
"""
MODULE = "import os\nopen({marker!r}, 'a').write(f'module {{os.geteuid()}}\\n')\n"
UEP = """
import json, os, socket
names = ("LD_PRELOAD", "PYTHONPATH", "PLAIN")
out = {"environ": {n: os.environ.get(n) for n in names}, "groups": os.getgroups()}
socket.socket(fileno=5).sendall(json.dumps(out).encode())
"""


@pytest.fixture
def service() -> Iterator[Service]:
    need_root()
    require(Path("/etc/pam.d").is_dir(), "PAM")
    with ExitStack() as stack:
        yield lambda *lines: stack.enter_context(pammodule.service(*lines))


class Trap:
    """A library and a Python module that leave the uid of whoever loads them."""

    def __init__(self, folder: Path) -> None:
        self.marker = folder / "marker"
        self.marker.touch()
        self.marker.chmod(0o666)
        self.library = pammodule.build(folder, "trap", LIBRARY % self.marker)
        self.modules = folder / "modules"
        self.modules.mkdir()
        (self.modules / "sitecustomize.py").write_text(MODULE.format(marker=str(self.marker)))
        self.environment = {
            "LD_PRELOAD": str(self.library), "PYTHONPATH": str(self.modules), "PLAIN": "yes",
        }  # fmt: skip

    def sprung(self) -> set[str]:
        return set(self.marker.read_text().splitlines())


@pytest.fixture
def trap(tmp_path: Path) -> Trap:
    need_root()
    return Trap(tmp_path)


def command(folder: Path) -> tuple[str, ...]:
    """A UEP that heeds PYTHONPATH, other than the tests' usual ones."""
    return (sys.executable, launching.script(folder, UEP)[-1])


@pytest.mark.parametrize(
    ("source", "pam"),
    [("pam_env", True), ("setcred", True), ("user_environment", True), ("user_environment", False)],
)
def test_P7_loaders_variables_reach_the_uep_only(
    harper: User, service: Service, tmp_path: Path, trap: Trap, source: str, pam: bool
) -> None:
    """Neither the session process, nor the launch child, nor PAM's programs at the end."""
    lines = ["account required pam_permit.so"]
    if source in ("pam_env", "setcred"):
        conf = tmp_path / "pam_env.conf"
        conf.write_text("".join(f"{n} DEFAULT={v}\n" for n, v in trap.environment.items()))
        kind = "session" if source == "pam_env" else "auth"
        lines.append(f"{kind} required pam_env.so conffile={conf} readenv=0")
    closing = tmp_path / "closing"
    script = tmp_path / "closing.sh"
    script.write_text(
        f'#!/bin/sh\n[ "$PAM_TYPE" = close_session ] && /usr/bin/env > {closing}\nexit 0\n'
    )
    script.chmod(0o755)
    # First, so that it runs before pam_env has said anything for the session; the variables
    # of the credentials are kept from it, too.
    lines.insert(1, f"session required pam_exec.so {script}")
    snap = launching.snapshot(
        command(tmp_path),
        pam_enable=pam,
        pam_service=service(*lines),
        environment=trap.environment if source == "user_environment" else {},
    )
    launch = launching.Launch(launching.plan(snap, launching.request(f"{harper.name}@example.org")))
    try:
        assert launch.stages().failed is None
        seen = json.loads(launch.notify_all())
        launch.wait()
    finally:
        launch.close()
    assert seen["environ"] == trap.environment
    # A Python of the UEP's, and every program that one runs, and nobody of root's.
    assert trap.sprung() == {f"library {harper.uid}", f"module {harper.uid}"}
    if pam:
        text = closing.read_text()
        assert "PAM_TYPE=close_session" in text
        assert "LD_PRELOAD" not in text and "PYTHONPATH" not in text
        assert ("PLAIN=yes" in text) == (source != "user_environment")


def test_P7_the_session_process_has_no_variable_of_the_site(
    harper: User, service: Service, tmp_path: Path, trap: Trap
) -> None:
    body = "import socket, time\nsocket.socket(fileno=5).sendall(b'up')\ntime.sleep(600)\n"
    snap = launching.snapshot(
        launching.script(tmp_path, body),
        pam_enable=True,
        pam_service=service("account required pam_permit.so", "session required pam_permit.so"),
        environment=trap.environment,
    )
    launch = launching.Launch(launching.plan(snap, launching.request(f"{harper.name}@example.org")))
    try:
        assert launch.stages().failed is None
        assert launch.notify() == b"up"
        maps = Path(f"/proc/{launch.launched.pid}/maps").read_text()
        environ = Path(f"/proc/{launch.launched.pid}/environ").read_bytes()
        assert str(trap.library) not in maps and str(trap.library).encode() not in environ
        assert str(trap.library) in Path(f"/proc/{launch.uep_pid}/maps").read_text()
        assert launch.launched.lifeline is not None
        launch.launched.lifeline.close()
        launch.wait()
    finally:
        launch.close()


def test_P2_pam_group_gives_a_group_that_initgroups_does_not(
    harper: User, service: Service, tmp_path: Path
) -> None:
    """The credentials are established once more after initgroups(3)."""
    conf = Path("/etc/security/group.conf")
    require(conf.exists(), "pam_group")
    name = service(
        "auth required pam_group.so",
        "account required pam_permit.so",
        "session required pam_permit.so",
    )
    before = conf.read_text()
    extra = grp.getgrnam("video")
    assert harper.name not in extra.gr_mem
    try:
        conf.write_text(f"{before.rstrip()}\n{name};*;{harper.name};Al0000-2400;video\n")
        snap = launching.snapshot(
            launching.script(tmp_path, UEP), pam_enable=True, pam_service=name
        )
        request = launching.request(f"{harper.name}@example.org")
        launch = launching.Launch(launching.plan(snap, request))
        try:
            assert launch.stages().failed is None
            seen = json.loads(launch.notify_all())
            launch.wait()
        finally:
            launch.close()
    finally:
        conf.write_text(before)
    wanted = {*os.getgrouplist(harper.name, harper.gid), extra.gr_gid}
    assert set(seen["groups"]) == wanted


@pytest.mark.parametrize("which", ["pam_access", "pam_nologin"])
def test_P2_P3_a_refusal_of_the_sites_own_rules(
    harper: User, jessie: User, service: Service, tmp_path: Path, which: str
) -> None:
    """pam_access refuses one user and not another; pam_nologin everybody while its file is."""
    rules = tmp_path / "rules"
    if which == "pam_access":
        rules.write_text(f"- : {harper.name} : ALL\n+ : ALL : ALL\n")
        line = f"account required pam_access.so accessfile={rules} nodefgroup"
    else:
        rules.write_text("closed for repairs\n")
        line = f"account required pam_nologin.so file={rules}"
    name = service(line, "account required pam_permit.so", "session required pam_permit.so")
    snap = launching.snapshot(launching.script(tmp_path, UEP), pam_enable=True, pam_service=name)

    def outcome(user: User) -> launching.Outcome:
        request = launching.request(f"{user.name}@example.org")
        return launching.run(launching.plan(snap, request))

    refused = outcome(harper)
    assert refused.code == 71 and refused.failed is not None and refused.session is None
    assert refused.failed.public.endswith(
        f"for {harper.name} [exit code: 71; (PermissionError) see your system administrator]"
    )
    assert "pam_acct_mgmt: (error code: " in refused.failed.reason
    if which == "pam_nologin":
        rules.unlink()
    assert outcome(jessie).failed is None
