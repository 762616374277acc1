"""A1: mepd, its consumer and its UEPs under SIGKILL, with a broker that stays."""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from consumer_fixtures import FakeService, control
from rabbit import Rabbit

from mepd.wire import message
from tests.conftest import User, is_gone, wait_for
from tests.root.masterparts import REPORTER

UEP = (
    "#!{python} -I\n"
    + REPORTER
    + "with open({ran!r}, 'a') as f: f.write(sys.argv[2] + '\\n')\n"
    + "report()\ntime.sleep(600)\n"
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
        program = shared / "uep"
        program.write_text(
            UEP.replace("{python}", sys.executable).replace("{ran!r}", repr(str(self.ran)))
        )
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
            assert self.process.wait(15) == 0


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


def unsettled(service: FakeService) -> int:
    """Messages of the command queue, delivered or not."""
    listing = control(service.rabbit, "list_queues", "name", "messages")
    rows = dict(line.split("\t") for line in listing.splitlines() if "\t" in line)
    return int(rows[service.command_queue])


def alive(name: str) -> int:
    """How many processes run as this UEP."""
    count = 0
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        count += name.encode() in words and b"start" in words
    return count


def test_A1_sigkill_of_the_consumer_loses_and_doubles_nothing(mepd: Mepd) -> None:
    """The UEPs stay, so each start runs exactly once however often the consumer dies."""
    mepd.start()
    chance = random.Random(1)
    names = []
    for _ in range(6):
        requests = [mepd.request() for _ in range(4)]
        names += [r["kwargs"]["name"] for r in requests]
        mepd.service.publish(*requests)
        pid = wait_for(mepd.consumer, 20, "a consumer")
        time.sleep(chance.uniform(0, 0.5))  # the moment is what is tested
        os.kill(pid, signal.SIGKILL)
        wait_for(lambda pid=pid: mepd.consumer() not in (None, pid), 30)  # type: ignore[misc]
    wait_for(lambda: set(mepd.runs()) == set(names), 60, "every start")
    assert set(mepd.runs().values()) == {1}
    assert all(alive(name) == 1 for name in names)
    wait_for(lambda: unsettled(mepd.service) == 0, 30, "every start to be settled")


def test_A1_sigkill_of_the_master_loses_nothing(mepd: Mepd) -> None:
    """A start that had not been settled is run by the next master; none runs twice at once."""
    chance = random.Random(2)
    names: list[str] = []
    for _ in range(6):
        mepd.start()
        requests = [mepd.request() for _ in range(3)]
        names += [r["kwargs"]["name"] for r in requests]
        mepd.service.publish(*requests)
        before = sum(mepd.runs().values())
        wait_for(lambda before=before: sum(mepd.runs().values()) > before, 30)  # type: ignore[misc]
        time.sleep(chance.uniform(0, 0.3))
        mepd.kill()
        wait_for(lambda: not any(alive(n) for n in names), 2, "the orphans' end")
    mepd.start()
    wait_for(lambda: set(mepd.runs()) == set(names), 60, "every start")
    assert all(alive(name) <= 1 for name in names)
    # Only a start whose master was killed before it was settled has run again.
    assert sum(mepd.runs().values()) <= len(names) + 6 * 3
    wait_for(lambda: unsettled(mepd.service) == 0, 30, "every start to be settled")


def test_R8_A1_a_notice_is_sent_once_for_a_failed_start(mepd: Mepd) -> None:
    (mepd.folder / "endpoint/map.json").write_text("[]")
    mepd.start()
    requests = [mepd.request() for _ in range(5)]
    mepd.service.publish(*requests)
    seen: Counter[str] = Counter()

    def told() -> bool:
        with mepd.service.channel() as channel:
            while (got := channel.basic_get(mepd.service.heartbeat_queue, auto_ack=True))[0]:
                report = message.unpack_status(got[2])
                if "error" in report.global_state:
                    assert "failed to map" in report.global_state["error"]
                    seen[report.endpoint_id] += 1
        return len(seen) == 5

    wait_for(told, 30, "five notices")
    wait_for(lambda: unsettled(mepd.service) == 0, 30, "every start to be settled")
    mepd.stop()
    assert set(seen.values()) == {1}
    assert mepd.process is not None and is_gone(mepd.process.pid)
    assert set(seen) == {str(uuid.UUID(r["kwargs"]["name"].rpartition(".")[2])) for r in requests}
