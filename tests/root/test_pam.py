"""Host authorization with real PAM modules, and the session process."""

from __future__ import annotations

import ctypes
import os
import resource
import secrets
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from mepd.model import Stage
from mepd.posix import process
from mepd.posix.pam import PamSession
from tests.conftest import User, is_gone, need_root, require, wait_for
from tests.root import launching

SLEEPER = "import socket, time\nsocket.socket(fileno=5).sendall(b'up')\ntime.sleep(600)\n"
Service = Callable[..., str]


@pytest.fixture
def service() -> Iterator[Service]:
    """Makes PAM services of these lines; removed afterwards."""
    need_root()
    require(Path("/etc/pam.d").is_dir(), "PAM")
    made: list[Path] = []

    def make(*lines: str) -> str:
        path = Path("/etc/pam.d") / f"mepd-test-{secrets.token_hex(4)}"
        path.write_text("\n".join(lines) + "\n")
        made.append(path)
        return path.name

    yield make
    for path in made:
        path.unlink()


def recorder(folder: Path) -> tuple[Path, str]:
    """A pam_exec script that records its type and uids; returns its record and its path."""
    record = folder / "record"
    script = folder / "record.sh"
    script.write_text(f'#!/bin/sh\necho "$PAM_TYPE $PAM_USER $(id -u)" >> {record}\n')
    script.chmod(0o755)
    return record, str(script)


def launch_with(service_name: str, user: User, folder: Path, body: str) -> launching.Launch:
    snap = launching.snapshot(
        launching.script(folder, body), pam_enable=True, pam_service=service_name
    )
    req = launching.request(f"{user.name}@example.org")
    return launching.Launch(launching.plan(snap, req))


@pytest.mark.parametrize("end", ["exit", "kill", "master"])
def test_P1_session_is_closed_as_root_however_the_uep_ends(
    harper: User, service: Service, tmp_path: Path, end: str
) -> None:
    record, script = recorder(tmp_path)
    name = service(
        "account required pam_permit.so",
        f"session required pam_exec.so seteuid {script}",
    )
    body = "import socket; socket.socket(fileno=5).sendall(b'up')" if end == "exit" else SLEEPER
    launch = launch_with(name, harper, tmp_path, body)
    try:
        outcome = launch.stages()
        assert outcome.failed is None and outcome.session is not None
        assert launch.notify() == b"up"
        uep = outcome.session.pid
        assert record.read_text() == f"open_session {harper.name} 0\n"
        if end == "kill":
            os.kill(uep, signal.SIGKILL)
        elif end == "master":  # what a dead master's descriptors look like
            assert launch.launched.lifeline is not None
            launch.launched.lifeline.close()
        launch.wait()
        assert is_gone(uep)
        assert record.read_text().splitlines()[1:] == [f"close_session {harper.name} 0"]
        if end != "exit":
            assert os.WIFSIGNALED(launch.outcome.status or 0)
    finally:
        launch.close()


def test_F1_P1_descriptors_with_numbers_above_1023(
    harper: User, service: Service, tmp_path: Path
) -> None:
    """As a master has them with a few hundred user endpoints; select(2) takes none of them."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(2000, before[0]), before[1]))
    opened = [os.open(os.devnull, os.O_RDONLY) for _ in range(1100)]
    record, script = recorder(tmp_path)
    name = service(
        "account required pam_permit.so", f"session required pam_exec.so seteuid {script}"
    )
    try:
        launch = launch_with(name, harper, tmp_path, SLEEPER)
        try:
            outcome = launch.stages()
            assert launch.notify() == b"up" and outcome.session is not None
            assert launch.launched.lifeline is not None
            assert launch.launched.lifeline.fileno() > 1023
            launch.launched.lifeline.close()
            assert os.WTERMSIG(launch.wait().status or 0) == signal.SIGKILL
        finally:
            launch.close()
    finally:
        for fd in opened:
            os.close(fd)
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
    assert is_gone(outcome.session.pid)
    assert [x.split()[0] for x in record.read_text().splitlines()] == [
        "open_session", "close_session"
    ]  # fmt: skip


def test_T3_session_process_stays_root_and_pdeathsig_reaches_the_uep(
    harper: User, service: Service, tmp_path: Path
) -> None:
    name = service("account required pam_permit.so", "session required pam_permit.so")
    launch = launch_with(name, harper, tmp_path, SLEEPER)
    try:
        outcome = launch.stages()
        assert launch.notify() == b"up" and outcome.session is not None
        status = Path(f"/proc/{launch.launched.pid}/status").read_text()
        assert "Uid:\t0\t0\t0\t0" in status
        title = Path(f"/proc/{launch.launched.pid}/cmdline").read_bytes()
        assert title.startswith(f"mepd: session {harper.name}".encode())
        os.kill(launch.launched.pid, signal.SIGKILL)
        launch.wait()
        uep = outcome.session.pid
        wait_for(lambda: is_gone(uep), 2, "the UEP to die with its session process")
    finally:
        launch.close()


@pytest.mark.parametrize(
    ("lines", "code", "word"),
    [
        (("account required pam_deny.so",), 7, "PAM_AUTH_ERR"),
        (("account required pam_permit.so", "session required pam_deny.so"), 14, "PAM_SESSION_ERR"),
        (("account requisite pam_shells.so", "session required pam_permit.so"), 7, "PAM_AUTH_ERR"),
    ],
)
def test_P3_refusals(
    service: Service, tmp_path: Path, lines: tuple[str, ...], code: int, word: str
) -> None:
    from tests.conftest import make_user, remove_user

    need_root()
    user = make_user("--shell", "/opt/no-such-shell")
    try:
        launch = launch_with(service(*lines), user, tmp_path, SLEEPER)
        try:
            outcome = launch.stages()
            launch.wait()
        finally:
            launch.close()
    finally:
        remove_user(user)
    assert outcome.failed is not None and outcome.code == 71 == int(Stage.HOST_AUTH)
    assert f"(error code: {code} [{word}])" in outcome.failed.reason
    assert outcome.failed.public == (
        f"Unable to start user endpoint process for {user.name}"
        " [exit code: 71; (PermissionError) see your system administrator]"
    )


def test_P2_pam_env_and_limits_reach_the_uep(
    harper: User, service: Service, tmp_path: Path
) -> None:
    env = tmp_path / "pam_env.conf"
    env.write_text("SITE_FROM_PAM DEFAULT=yes\n")
    limits = tmp_path / "limits.conf"
    limits.write_text(f"{harper.name} hard nofile 4321\n{harper.name} soft nofile 4321\n")
    name = service(
        "account required pam_permit.so",
        f"session required pam_env.so conffile={env} readenv=0",
        f"session required pam_limits.so conf={limits}",
    )
    body = (
        "import os, resource, socket\n"
        "n = resource.getrlimit(resource.RLIMIT_NOFILE)[0]\n"
        "text = f\"{os.environ.get('SITE_FROM_PAM')} {n}\"\n"
        "socket.socket(fileno=5).sendall(text.encode())\n"
    )
    launch = launch_with(name, harper, tmp_path, body)
    try:
        assert launch.stages().failed is None
        assert launch.notify() == b"yes 4321"
        launch.wait()
    finally:
        launch.close()


def test_T7_P4_our_conversation_is_called(service: Service, caplog: Any) -> None:
    """A module that speaks reaches our callback though a thousand others were made since."""
    caplog.set_level("INFO")
    need_root()
    name = service("account required pam_echo.so hello from the module %u")
    called: list[int] = []
    session = PamSession(name, "root")
    kind = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_int, ctypes.c_void_p)
    others = [kind(lambda a, b: called.append(1) or 0) for _ in range(1000)]
    try:
        session.check_account()
    finally:
        session.close()
    assert len(others) == 1000 and not called
    assert any("hello from the module" in r.getMessage() for r in caplog.records)


def test_R2_descendants_with_sessions_of_their_own_end_with_the_session(
    harper: User, service: Service, tmp_path: Path
) -> None:
    name = service("account required pam_permit.so", "session required pam_permit.so")
    tmp_path.chmod(0o777)
    body = (
        "import os, socket, time\n"
        "if os.fork() == 0:\n"
        "    os.setsid()\n"
        "    if os.fork() == 0:\n"
        "        os.setsid()\n"
        f"        open({str(tmp_path / 'pid')!r}, 'w').write(str(os.getpid()))\n"
        "        time.sleep(600)\n"
        "    os._exit(0)\n"
        "os.wait()\n"
        f"while not os.path.exists({str(tmp_path / 'pid')!r}): time.sleep(0.01)\n"
        "socket.socket(fileno=5).sendall(b'up')\n"
    )
    launch = launch_with(name, harper, tmp_path, body)
    try:
        launch.stages()
        assert launch.notify() == b"up"
        pid = int(wait_for((tmp_path / "pid").read_text, 5))
        launch.wait()
        assert is_gone(pid)
    finally:
        launch.close()


def test_a_hanging_module_can_be_killed(harper: User, service: Service, tmp_path: Path) -> None:
    script = tmp_path / "hang.sh"
    script.write_text("#!/bin/sh\nsleep 300\n")
    script.chmod(0o755)
    name = service("account required pam_permit.so", f"session required pam_exec.so {script}")
    launch = launch_with(name, harper, tmp_path, SLEEPER)
    try:
        sock = launch.launched.stages
        sock.settimeout(20)
        assert sock.recv(65536)  # Mapped
        from mepd.wire import codec
        from mepd.wire.framing import encode_frame
        from mepd.wire.stages import Verdict

        sock.sendall(encode_frame(codec.encode(Verdict(True))))
        wait_for(lambda: len(process.descendants(launch.launched.pid)) >= 1, 10, "the module")
        family = process.descendants(launch.launched.pid)
        target = process.identify(launch.launched.pid)
        assert target is not None
        process.kill_tree(target)
        launch.wait()
        wait_for(lambda: all(is_gone(p.pid) for p in family), 2)
    finally:
        launch.close()
