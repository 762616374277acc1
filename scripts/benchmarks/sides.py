"""The two managers: each starts, is measured from outside, and is told to stop."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import psutil
from mepd_fixtures import CONF, Mepd
from rabbit import Rabbit

from benchmarks.service import PATIENCE, SDK_PORT, Service
from tests.conftest import User
from tests.e2e import peer as peers

TEMPLATE = """\
display_name: bench
engine:
  type: {{ ENGINE|default("ThreadPoolEngine") }}
  max_workers{{ "_per_node" if "GlobusCompute" in ENGINE|default("") else "" }}: 2
idle_heartbeats_soft: 1000
idle_heartbeats_hard: 5760
"""
"""No row is so long that a user endpoint ends in it for being idle."""
START_TIMEOUT_S = 300
STREAM = 10
STOP_S = 60


class WebService(Protocol):
    """Where mepd registers; ``credential`` is what its file of credentials has."""

    base: str
    credential: dict[str, str]


def write_mapping(path: Path) -> None:
    """NAME@example.com is the account NAME."""
    rule = {"source": "{username}", "match": r"(.*)@example\.com", "output": "{0}"}
    path.write_text(
        json.dumps([{"DATA_TYPE": "expression_identity_mapping#1.0.0", "mappings": [rule]}])
    )


class MepdSide(Mepd):
    """mepd with one endpoint, whose user endpoints are its own program."""

    def __init__(self, folder: Path, service: WebService, worker: User) -> None:
        self._web = service
        super().__init__(folder, service, worker, worker)  # type: ignore[arg-type]

    def _write(self, worker: User) -> None:
        os.chmod(self.folder, 0o755)
        endpoint = self.folder / "endpoint"
        endpoint.mkdir()
        write_mapping(endpoint / "map.json")
        (endpoint / "config.yaml").write_text(
            "multi_user: true\nidentity_mapping_config_path: map.json\n"
        )
        (endpoint / "user_config_template.yaml.j2").write_text(TEMPLATE)
        secret = self.folder / "service.json"
        secret.touch(mode=0o600)
        secret.write_text(json.dumps(self._web.credential))
        conf = CONF.format(worker=worker.name, url=self._web.base)
        own = f"start_timeout = {START_TIMEOUT_S}\n[control]"
        (self.folder / "mepd.conf").write_text(conf.replace("[control]", own, 1))


@dataclass
class Managed:
    """A running manager and its user endpoints, as ps(1) shows them."""

    name: str
    users: list[User]
    process: subprocess.Popen[bytes]
    folder: Path
    log: Callable[[], str]

    @property
    def socket(self) -> Path:
        """mepd's control socket."""
        return self.folder / "mepd.sock"

    def manager(self) -> list[psutil.Process]:
        """The manager's process, then its helpers: all that is below it and no account's."""
        own = psutil.Process(self.process.pid)
        uids = {user.uid for user in self.users}
        return [own, *(p for p in own.children(recursive=True) if _uid(p) not in {*uids, None})]

    def families(self) -> list[list[psutil.Process]]:
        """Each user endpoint, a process of an account's below the manager, and all below it."""
        uids = {user.uid for user in self.users}
        found: dict[int, list[psutil.Process]] = {}
        heads: dict[int, int] = {}
        for process in psutil.Process(self.process.pid).children(recursive=True):  # parents first
            with contextlib.suppress(psutil.NoSuchProcess):
                if process.uids().real in uids:
                    head = heads[process.pid] = heads.get(process.ppid(), process.pid)
                    found.setdefault(head, []).append(process)
        return list(found.values())

    def ueps(self) -> list[psutil.Process]:
        return [family[0] for family in self.families()]

    def end_ueps(self) -> None:
        """Have all user endpoints end, as their own soft limit would."""
        for process in (ueps := self.ueps()):
            with contextlib.suppress(psutil.NoSuchProcess):
                process.send_signal(signal.SIGTERM)
        _gone, alive = psutil.wait_procs(ueps, 20)
        kill(alive)

    def stop(self) -> float:
        """Tell the manager to stop; seconds until nothing of it is left."""
        family = [
            psutil.Process(self.process.pid),
            *psutil.Process(self.process.pid).children(recursive=True),
        ]
        began = time.monotonic()
        self.process.send_signal(signal.SIGTERM)
        end = began + STOP_S
        while any(_alive(p) for p in family) and time.monotonic() < end:
            self.process.poll()
            time.sleep(0.01)
        seconds = time.monotonic() - began
        left = [p for p in family if _alive(p)]
        kill(left)
        self.process.wait()
        if left:
            raise RuntimeError(f"{len(left)} processes were left {STOP_S} s after SIGTERM")
        return seconds

    def close(self) -> None:
        """Stop the manager if it runs, and remove all of it that there is."""
        try:
            if self.process.poll() is None:
                self.stop()
        finally:
            uids = {user.uid for user in self.users}
            kill(p for p in psutil.process_iter() if _uid(p) in uids)
            shutil.rmtree(self.folder, ignore_errors=True)


@dataclass
class Side(Managed):
    """A manager at our service."""

    service: Service

    def start_ueps(self, count: int, engine: str = "ThreadPoolEngine") -> list[str]:
        """Have one started for each of ``count`` users, at once."""
        return [
            self.service.start_uep(self.users[i % len(self.users)].name, engine)
            for i in range(count)
        ]

    def stream_ueps(self, count: int, each: Callable[[int], None] = lambda _: None) -> list[str]:
        """Have so many started, STREAM at a time; ``each`` is called with the number of each.

        Returns their ids when all have reported.
        """
        ids: list[str] = []
        for number in range(count):
            behind = ids[: max(0, number + 1 - STREAM)]
            self.service.until(lambda: self._reported(behind), "first reports")
            ids.append(self.service.start_uep(self.users[number % len(self.users)].name))
            each(number)
        self.service.first_reports(ids)
        return ids

    def _reported(self, ids: list[str]) -> bool:
        return len(self.service.heard.keys() & set(ids)) == len(ids)

    def close(self) -> None:
        try:
            super().close()
        finally:
            self.service.close()


def _alive(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False


def _uid(process: psutil.Process) -> int | None:
    try:
        return int(process.uids().real)
    except psutil.Error:
        return None


def kill(processes: Iterable[psutil.Process]) -> None:
    for process in processes:
        with contextlib.suppress(psutil.Error):
            process.kill()


def make_folder() -> Path:
    """One that any user may enter."""
    folder = Path(tempfile.mkdtemp(prefix="mepd-bench-", dir="/var/lib"))
    os.chmod(folder, 0o755)
    return folder


def _online(side: Side) -> Side:
    service = side.service

    def heard() -> bool:
        assert side.process.poll() is None, f"{side.name} ended"
        return service.endpoint_id in service.heard

    try:
        service.until(heard, "the manager's first heartbeat", PATIENCE)
    except BaseException:
        print(side.log()[-3000:], file=sys.stderr)
        side.close()
        raise
    return side


def start_mepd(rabbit: Rabbit, users: list[User], worker: User) -> Side:
    service = Service(rabbit)
    folder = make_folder()
    mepd = MepdSide(folder, service, worker)
    mepd.start()
    assert mepd.process is not None
    return _online(Side("mepd", users, mepd.process, folder, mepd.log, service))


def start_peer(rabbit: Rabbit, users: list[User], program: Path) -> Side:
    service = Service(rabbit, SDK_PORT)
    folder = make_folder()
    write_mapping(folder / "map.json")
    client = {"client_id": service.endpoint_id, "client_secret": "s"}
    made = peers.Manager(
        folder / "peer", program, service.base, client, folder / "map.json", TEMPLATE
    )
    return _online(Side("peer", users, made.process, folder, made.log, service))
