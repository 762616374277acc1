"""The two managers: each starts, is measured from outside, and is told to stop."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import psutil
from mepd_fixtures import CONF, Mepd
from rabbit import Rabbit

from benchmarks.service import SDK_PORT, Service
from tests.conftest import User
from tests.e2e import peer as peers


def write_mapping(path: Path) -> None:
    """NAME@example.com is the account NAME."""
    rule = {"source": "{username}", "match": r"(.*)@example\.com", "output": "{0}"}
    path.write_text(
        json.dumps([{"DATA_TYPE": "expression_identity_mapping#1.0.0", "mappings": [rule]}])
    )


class MepdSide(Mepd):
    """mepd with one endpoint, whose user endpoints are its own program."""

    def _write(self, worker: User) -> None:
        os.chmod(self.folder, 0o755)
        endpoint = self.folder / "endpoint"
        endpoint.mkdir()
        write_mapping(endpoint / "map.json")
        (endpoint / "config.yaml").write_text(
            "multi_user: true\nidentity_mapping_config_path: map.json\n"
        )
        (endpoint / "user_config_template.yaml.j2").write_text(peers.TEMPLATE)
        secret = self.folder / "service.json"
        secret.touch(mode=0o600)
        secret.write_text(json.dumps({"token": "t"}))
        conf = CONF.format(worker=worker.name, url=self.service.base)
        (self.folder / "mepd.conf").write_text(conf)


@dataclass
class Side:
    """A running manager. ``folder`` is removed with it."""

    name: str
    service: Service
    users: list[User]
    process: subprocess.Popen[bytes]
    folder: Path
    log: Callable[[], str]

    def ueps(self) -> list[psutil.Process]:
        """The user endpoints: children of the manager that are an account's."""
        uids = {user.uid for user in self.users}
        below = psutil.Process(self.process.pid).children(recursive=True)
        ours = [p for p in below if p.is_running() and p.uids().real in uids]
        pids = {p.pid for p in ours}
        return [p for p in ours if p.ppid() not in pids]

    def start_ueps(self, count: int, engine: str = "ThreadPoolEngine") -> list[str]:
        """Have one started for each of ``count`` users, at once."""
        return [
            self.service.start_uep(self.users[i % len(self.users)].name, engine)
            for i in range(count)
        ]

    def end_ueps(self) -> None:
        """Have all user endpoints end, as their own soft limit would."""
        for process in (ueps := self.ueps()):
            process.send_signal(signal.SIGTERM)
        gone, alive = psutil.wait_procs(ueps, 20)
        for process in alive:
            process.kill()

    def stop(self) -> float:
        """Tell the manager to stop; seconds until nothing of it is left."""
        family = [
            psutil.Process(self.process.pid),
            *psutil.Process(self.process.pid).children(recursive=True),
        ]
        began = time.monotonic()
        self.process.send_signal(signal.SIGTERM)
        end = began + 30
        while any(_alive(p) for p in family) and time.monotonic() < end:
            self.process.poll()
            time.sleep(0.01)
        seconds = time.monotonic() - began
        for process in family:
            if _alive(process):
                process.kill()
        self.process.wait()
        return seconds

    def close(self) -> None:
        if self.process.poll() is None:
            self.stop()
        self.service.close()
        shutil.rmtree(self.folder, ignore_errors=True)


def _alive(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False


def _folder() -> Path:
    folder = Path(tempfile.mkdtemp(prefix="mepd-bench-", dir="/var/lib"))
    os.chmod(folder, 0o755)
    return folder


def _online(side: Side) -> Side:
    service = side.service

    def heard() -> bool:
        assert side.process.poll() is None, f"{side.name} ended"
        return any(h.endpoint_id == service.endpoint_id for h in service.heard)

    try:
        service.until(heard, "the manager's first heartbeat")
    except BaseException:
        print(side.log()[-3000:], file=sys.stderr)
        side.close()
        raise
    return side


def start_mepd(rabbit: Rabbit, users: list[User], worker: User) -> Side:
    folder, service = _folder(), Service(rabbit)
    mepd = MepdSide(folder, service, users[0], worker)
    mepd.start()
    assert mepd.process is not None
    return _online(Side("mepd", service, users, mepd.process, folder, mepd.log))


def start_peer(rabbit: Rabbit, users: list[User], program: Path) -> Side:
    folder, service = _folder(), Service(rabbit, SDK_PORT)
    write_mapping(folder / "map.json")
    client = {"client_id": service.endpoint_id, "client_secret": "s"}
    made = peers.Manager(folder / "peer", program, service.base, client, folder / "map.json")
    return _online(Side("peer", service, users, made.process, folder, made.log))
