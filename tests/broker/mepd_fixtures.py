"""A real mepd with one endpoint, between a service of the test's and the real broker."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from consumer_fixtures import FakeService
from rabbit import Rabbit

from tests.conftest import User, wait_for
from tests.root.masterparts import REPORTER

UEP = (
    "#!{python} -I\n"
    + REPORTER
    + "with open({ran!r}, 'a') as f: f.write(sys.argv[2] + '\\n')\n"
    + "report()\nend = time.monotonic() + {seconds}\n"
    + "while (left := end - time.monotonic()) > 0:\n"
    + "    time.sleep(min(20, left))\n    report()\n"
)
CONF = """\
[mepd]
logfile = %(here)s/mepd.log
pidfile = %(here)s/mepd.pid
user = {worker}
[control]
file = %(here)s/mepd.sock
[service]
url = {url}
credentials = %(here)s/service.json
[endpoint:test]
directory = %(here)s/endpoint
"""


class Mepd:
    """mepd -n with one endpoint, against a service and a broker of the test's."""

    def __init__(self, folder: Path, service: FakeService, user: User, worker: User) -> None:
        self.folder = folder
        self.service = service
        self.user = user
        self.ran = folder / "shared/ran"
        self.process: subprocess.Popen[bytes] | None = None
        self._write(worker)

    def _write(self, worker: User) -> None:
        os.chmod(self.folder, 0o755)
        shared = self.folder / "shared"
        shared.mkdir()
        self.ran.touch()
        os.chmod(self.ran, 0o666)
        self.program = program = shared / "uep"
        self.let_ueps_live(7200)
        program.chmod(0o755)
        endpoint = self.folder / "endpoint"
        endpoint.mkdir()
        rule = {"source": "{username}", "match": "(.*)@example.com", "output": self.user.name}
        mapping = [{"DATA_TYPE": "expression_identity_mapping#1.0.0", "mappings": [rule]}]
        (endpoint / "map.json").write_text(json.dumps(mapping))
        (endpoint / "config.yaml").write_text(
            "multi_user: true\nidentity_mapping_config_path: map.json\nheartbeat_period: 1\n"
            f"uep_command: [{program}, start, '{{name}}', --die-with-parent]\n"
        )
        (endpoint / "user_config_template.yaml.j2").write_text("engine: {type: ThreadPoolEngine}\n")
        (self.folder / "service.json").write_text(json.dumps({"token": "t"}))
        conf = CONF.format(worker=worker.name, url=self.service.base)
        (self.folder / "mepd.conf").write_text(conf)

    def let_ueps_live(self, seconds: float) -> None:
        """From now on, those that are started end by themselves after ``seconds``."""
        text = UEP.replace("{python}", sys.executable).replace("{ran!r}", repr(str(self.ran)))
        self.program.write_text(text.replace("{seconds}", str(seconds)))

    def start(self) -> None:
        mepd = Path(sys.prefix) / "bin/mepd"
        self.process = subprocess.Popen(
            [mepd, "-n", "-c", self.folder / "mepd.conf"],
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        wait_for(lambda: f"started (pid: {self.process and self.process.pid})" in self.log(), 20)

    def kill(self) -> None:
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def consumer(self) -> int | None:
        import psutil

        assert self.process is not None
        for child in psutil.Process(self.process.pid).children():
            with contextlib.suppress(psutil.Error):
                if child.cmdline()[:1] == ["mepd: amqp-consumer"]:
                    return int(child.pid)
        return None

    def log(self) -> str:
        path = self.folder / "mepd.log"
        return path.read_text() if path.exists() else ""

    def runs(self) -> Counter[str]:
        return Counter(self.ran.read_text().split())

    def request(self) -> dict[str, Any]:
        body = self.service.request()
        body["globus_username"] = "harper@example.com"
        identity = body["globus_identity_set"][0]
        identity.update(username="harper@example.com", status="used")
        return body

    def stop(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.terminate()
            code = self.process.wait(15)
            assert code == 0, f"exit code {code}\n{self.log()[-3000:]}"


@pytest.fixture
def mepd(rabbit: Rabbit, harper: User, jessie: User) -> Iterator[Mepd]:
    folder = Path(tempfile.mkdtemp(prefix="mepd-a1-", dir="/var/lib"))
    service = FakeService(rabbit)
    made = Mepd(folder, service, harper, jessie)
    try:
        yield made
    finally:
        made.stop()
        service.close()
        shutil.rmtree(folder)
