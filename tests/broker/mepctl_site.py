"""A running mepd with user endpoints of two accounts, and mepctl as anybody, piped or not."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import shutil
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from consumer_fixtures import FakeService
from rabbit import Rabbit

from mepd.ctl import client
from tests.conftest import User, make_user, need_root, remove_user, wait_for
from tests.root.masterparts import REPORTER

MEPCTL = Path(sys.executable).parent / "mepctl"
MEPD = Path(sys.executable).parent / "mepd"
UEP = (
    "#!{python} -I\n"
    + REPORTER
    + r"""
import re, subprocess
mode = re.search('mode: "(.*)"', json.loads(sys.stdin.read())["config"])[1]
if mode == "fail":
    sys.exit(3)
if mode == "title":
    import ctypes, setproctitle
    setproctitle.setproctitle("x) R 1 1\n\033[31mroot 1 RUNNING\n")
    ctypes.CDLL(None).prctl(15, b"x) R 1 1\n", 0, 0, 0)
if mode == "family":
    hog = "import time; b = bytearray(64 << 20); time.sleep(600)"
    subprocess.Popen([sys.executable, "-c", hog])
print("first line of", os.getuid(), "\033[31mred", flush=True)
started = time.monotonic()
while True:
    idle = time.monotonic() - started
    if mode == "idle":
        report(received=1, done=1, last_move=idle)
    else:
        report(received=2, outstanding=1, done=1)
    time.sleep(0.3)
"""
)
CONF = """\
[mepd]
logfile = %(here)s/mepd.log
pidfile = %(here)s/mepd.pid
user = nobody
stopwaitsecs = 2
[control]
file = %(here)s/mepd.sock
chown = root:{group}
[service]
url = {url}
credentials = %(here)s/service.json
[endpoint:gpu]
directory = %(here)s/gpu
[program:napper]
command = /bin/sleep 600
startsecs = 0.2
[program:broken]
command = /bin/false
autostart = false
startretries = 0
[include]
files = conf.d/*.conf
"""
MAPPING = [{
    "DATA_TYPE": "expression_identity_mapping#1.0.0",
    "mappings": [{"source": "{username}", "match": r"(.*)@example\.com", "output": "{0}"}],
}]  # fmt: skip


class Site:
    """``harper`` and ``jessie`` are users, ``admin`` is in the group of [control] chown."""

    def __init__(self, folder: Path, service: FakeService, users: list[User], group: str) -> None:
        self.folder, self.service = folder, service
        self.harper, self.jessie, self.admin = users
        self.group = group
        self.socket = folder / "mepd.sock"
        self.process: subprocess.Popen[bytes] | None = None
        self._write()

    def _write(self) -> None:
        self.folder.chmod(0o755)
        (self.folder / "conf.d").mkdir()
        program = self.folder / "uep"
        program.write_text(UEP.replace("{python}", sys.executable))
        program.chmod(0o755)
        gpu = self.folder / "gpu"
        gpu.mkdir(mode=0o700)
        (gpu / "map.json").write_text(json.dumps(MAPPING))
        self.config_yaml = gpu / "config.yaml"
        self.config_yaml.write_text(
            "multi_user: true\nidentity_mapping_config_path: map.json\n"
            f"uep_command: [{program}, start, '{{name}}', --die-with-parent]\n"
        )
        (gpu / "user_config_template.yaml.j2").write_text(
            'engine: {type: ThreadPoolEngine}\nmode: {{ mode|default(\'"busy"\') }}\n'
        )
        (self.folder / "service.json").write_text(json.dumps({"token": "t"}))
        (self.folder / "service.json").chmod(0o600)
        self.conf = self.folder / "mepd.conf"
        self.conf.write_text(CONF.format(group=self.group, url=self.service.base))

    # --- mepd -------------------------------------------------------------------------
    def begin(self) -> None:
        with (self.folder / "console").open("wb") as console:
            self.process = subprocess.Popen(
                [MEPD, "-n", "-c", self.conf], stdin=subprocess.DEVNULL, stdout=console,
                stderr=console, cwd="/",
            )  # fmt: skip
        wait_for(lambda: self.endpoint().get("state") == "online", 40, "the endpoint online")

    def endpoint(self) -> dict[str, Any]:
        try:
            (found,) = client.call(self.socket, "status")["endpoints"]
        except Exception:
            return {}
        return dict(found)

    def end(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.terminate()
            assert self.process.wait(20) == 0, self.log()[-3000:]

    def log(self) -> str:
        path = self.folder / "mepd.log"
        return path.read_text() if path.exists() else ""

    # --- user endpoints ---------------------------------------------------------------
    def ask(self, user: str, mode: str = "busy") -> str:
        """Request a user endpoint; its id."""
        uep = str(uuid.uuid4())
        body = self.service.request(uep)
        body["kwargs"]["user_opts"] = {"mode": mode}
        body["globus_username"] = f"{user}@example.com"
        body["globus_identity_set"][0].update(username=f"{user}@example.com", status="used")
        self.service.publish(body)
        return uep

    def uep(self, user: User, mode: str = "busy") -> dict[str, Any]:
        """A running user endpoint, as mepd lists it."""
        ident = self.ask(user.name, mode)
        found: dict[str, Any] = wait_for(lambda: self.running(ident), 30, self.log()[-2000:])
        return found

    def running(self, ident: str) -> dict[str, Any] | None:
        ueps = client.call(self.socket, "list", states=["RUNNING"])["ueps"]
        return next((u for u in ueps if u["id"] == ident), None)

    def ids(self) -> set[str]:
        return {u["id"] for u in client.call(self.socket, "list")["ueps"]}

    def clear(self) -> None:
        client.call(self.socket, "kill", all=True, now=True)
        wait_for(lambda: not self.ids(), 20, "the end of all user endpoints")

    # --- mepctl -----------------------------------------------------------------------
    def ctl(
        self, *words: str | Path, user: User | None = None
    ) -> subprocess.CompletedProcess[str]:
        """mepctl, piped, as root or as a real other account."""
        return subprocess.run(
            [MEPCTL, "-s", self.socket, *map(str, words)], capture_output=True, text=True,
            stdin=subprocess.DEVNULL, timeout=60, **_as(user),
        )  # fmt: skip

    def json(self, *words: str, user: User | None = None) -> Any:
        done = self.ctl(*words, "--json", user=user)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    def terminal(
        self, *words: str, user: User | None = None, typed: str = ""
    ) -> tuple[int, str]:
        """Exit code and all that a terminal of 140 columns showed."""
        master, slave = pty.openpty()
        who = _as(user)
        who["env"] = {**who["env"], "TERM": "xterm", "COLUMNS": "140"}
        with subprocess.Popen(
            [MEPCTL, "-s", self.socket, *words], stdin=slave, stdout=slave, stderr=slave,
            start_new_session=True, **who,
        ) as child:  # fmt: skip
            os.close(slave)
            os.write(master, typed.encode())
            shown = b""
            with contextlib.suppress(OSError):  # EIO: the other side is closed
                while data := os.read(master, 65536):
                    shown += data
            code = child.wait(timeout=60)
        os.close(master)
        return code, shown.decode().replace("\r\n", "\n")


def _as(user: User | None) -> dict[str, Any]:
    env = {"PATH": os.environ["PATH"], "LANG": "C.UTF-8", "HOME": user.home if user else "/root"}
    who: dict[str, Any] = {"env": env, "cwd": "/"}
    if user is not None:
        who |= {"user": user.uid, "group": user.gid, "extra_groups": []}
    return who


@pytest.fixture(scope="session")
def site(rabbit: Rabbit) -> Iterator[Site]:
    need_root()
    folder = Path(tempfile.mkdtemp(prefix="mepctl-", dir="/var/lib"))
    service = FakeService(rabbit)
    group = f"mg{uuid.uuid4().hex[:8]}"
    subprocess.run(["groupadd", group], check=True)
    users = [make_user(), make_user(), make_user("--groups", group)]
    made = Site(folder, service, users, group)
    try:
        made.begin()
        yield made
    finally:
        made.end()
        service.close()
        for user in users:
            remove_user(user)
        subprocess.run(["groupdel", group], capture_output=True)
        shutil.rmtree(folder)
