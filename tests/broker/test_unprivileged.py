"""mepd run by an ordinary user: no account but its own, no request but its own people's."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from consumer_fixtures import FakeMaster, FakeService
from rabbit import Rabbit

from mepd.wire.worker import EndpointOnline, OwnIdentities, RegistrationFailed
from tests.conftest import User, wait_for
from tests.root.masterparts import REPORTER

CONF = """\
[mepd]
logfile = %(here)s/mepd.log
pidfile = %(here)s/mepd.pid
[control]
file = %(here)s/mepd.sock
[service]
url = {url}
credentials = %(here)s/service.json
[endpoint:test]
directory = %(here)s/endpoint
{more}
"""
LINE = "f'{sys.argv[2]} {os.getresuid()} {os.getresgid()}\\n'"


class Own:
    """mepd -n as an ordinary user, with a mapping that names somebody else."""

    def __init__(self, folder: Path, service: FakeService, user: User, other: User) -> None:
        self.folder, self.service, self.user = folder, service, user
        self.process: subprocess.Popen[bytes] | None = None
        endpoint = folder / "endpoint"
        endpoint.mkdir()
        rule = {"source": "{username}", "match": "(.*)", "output": other.name}
        document = {"DATA_TYPE": "expression_identity_mapping#1.0.0", "mappings": [rule]}
        (endpoint / "map.json").write_text(json.dumps([document]))
        program = folder / "uep"
        program.write_text(
            f"#!{sys.executable} -I\n{REPORTER}"
            f"open({str(folder / 'ran')!r}, 'a').write({LINE})\nreport()\ntime.sleep(600)\n"
        )
        program.chmod(0o755)
        (endpoint / "config.yaml").write_text(
            "multi_user: true\nidentity_mapping_config_path: map.json\nheartbeat_period: 1\n"
            f"uep_command: [{program}, start, '{{name}}', --die-with-parent]\n"
            "pam: {service_name: login}\n"
        )
        (endpoint / "user_config_template.yaml.j2").write_text("engine: {type: ThreadPoolEngine}\n")
        (folder / "service.json").write_text(json.dumps({"token": "t"}))

    def start(self, more: str = "") -> None:
        conf = self.folder / "mepd.conf"
        conf.write_text(CONF.format(url=self.service.base, more=more))
        for path in (self.folder, *self.folder.rglob("*")):
            os.chown(path, self.user.uid, self.user.gid)
        self.process = subprocess.Popen(
            [Path(sys.prefix) / "bin/mepd", "-n", "-c", conf],
            user=self.user.uid, group=self.user.gid, extra_groups=[], cwd="/",
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        wait_for(lambda: "mepd 0" in self.log() and "started (pid" in self.log())

    def log(self) -> str:
        path = self.folder / "mepd.log"
        return path.read_text() if path.exists() else ""

    def ran(self) -> dict[str, str]:
        path = self.folder / "ran"
        lines = path.read_text().splitlines() if path.exists() else []
        return dict(line.split(" ", 1) for line in lines)

    def request(self, *identities: str) -> dict[str, Any]:
        """A start request of a person with these identities."""
        body = self.service.request()
        body["globus_effective_identity"] = identities[0]
        body["globus_identity_set"] = [
            {"sub": i, "id": i, "username": f"{i}@example.com", "status": "used"}
            for i in identities
        ]
        return body

    def stop(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.terminate()
            assert self.process.wait(15) == 0


@pytest.fixture
def own(rabbit: Rabbit, harper: User, jessie: User) -> Iterator[Own]:
    folder = Path(tempfile.mkdtemp(prefix="mepd-own-"))
    service = FakeService(rabbit)
    made = Own(folder, service, harper, jessie)
    try:
        yield made
    finally:
        made.stop()
        service.close()
        shutil.rmtree(folder)


def name_of(request: dict[str, Any]) -> str:
    name: str = request["kwargs"]["name"]
    return name


def test_without_root_only_the_owners_requests_run_and_as_the_same_user(
    own: Own, harper: User
) -> None:
    """By the identity that registered the endpoint and by one linked to it; no mapping."""
    mine, linked = str(uuid.uuid4()), str(uuid.uuid4())
    own.service.identities = [mine, linked]
    own.start()
    wait_for(lambda: "listens for start requests" in own.log())
    asked = [own.request(mine), own.request(linked), own.request(str(uuid.uuid4()), linked)]
    stranger = own.request(str(uuid.uuid4()), str(uuid.uuid4()))
    own.service.publish(*asked, stranger)
    wait_for(lambda: len(own.ran()) == 3, 30, "three user endpoints")
    ids = f"{(harper.uid,) * 3} {(harper.gid,) * 3}"
    assert own.ran() == {name_of(r): ids for r in asked}
    report = own.service.next_report(lambda r: "error" in r.global_state)
    assert report.endpoint_id == name_of(stranger).rpartition(".")[2]
    assert report.global_state["error"].startswith("Ignoring start request for untrusted identity.")
    log = own.log()
    assert "Ignoring start request for untrusted identity." in log
    assert (
        "`identity_mapping_config_path` specified, but process is not privileged (e.g., not"
        f" `root`) -- identity mapping configuration will be ignored: {own.folder}/endpoint/map"
    ) in log
    assert "`pam` enabled, but process is not privileged" in log
    userinfo = [r for r in own.service.requests if r[1] == "/v2/oauth2/userinfo"]
    assert [(r[0], r[2]["Authorization"]) for r in userinfo] == [("GET", "Bearer t")]


def test_without_root_nothing_starts_before_the_owner_is_known(own: Own) -> None:
    """The service cannot say who owns the endpoint: requests wait, and run when it can."""
    own.service.identities = None
    mine = str(uuid.uuid4())
    request = own.request(mine)
    own.service.publish(request)
    own.start()
    wait_for(lambda: "down for repairs" in own.log())
    assert not own.ran() and own.service.ready_messages() == 1
    own.service.identities = [mine]
    wait_for(lambda: name_of(request) in own.ran(), 60, "the user endpoint")


def test_without_root_mepctl_serves_the_user_and_others_see_nothing(
    own: Own, harper: User, jessie: User
) -> None:
    own.start()
    own.folder.chmod(0o755)
    assert (own.folder / "mepd.sock").stat().st_uid == harper.uid

    def ask(user: User, *words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [Path(sys.prefix) / "bin/mepctl", "-c", own.folder / "mepd.conf", *words],
            user=user.uid, group=user.gid, extra_groups=[], cwd="/", capture_output=True,
            text=True, timeout=60,
        )  # fmt: skip

    assert ask(harper, "status").returncode == 0
    assert ask(jessie, "shutdown").returncode == os.EX_NOPERM
    assert ask(harper, "shutdown").returncode == 0
    assert own.process is not None and own.process.wait(15) == 0


def test_without_root_a_program_of_another_user_does_not_run(
    own: Own, jessie: User
) -> None:
    out = own.folder / "out"
    own.start(f"[program:p]\ncommand = /usr/bin/touch {out}\nuser = {jessie.name}\nstartretries=0")
    wait_for(lambda: "program p: " in own.log() and "gave up" in own.log())
    assert not out.exists()
    assert f"user = {jessie.name}: only root can become {jessie.name}" in own.log()


@pytest.mark.parametrize("known", [True, False])
def test_consumer_tells_whose_endpoint_it_is_before_it_listens(
    rabbit: Rabbit, tmp_path: Path, known: bool
) -> None:
    service = FakeService(rabbit)
    if not known:
        service.identities = []
    master = FakeMaster(tmp_path / "log")
    try:
        master.send(service.serve(want_identities=True))
        if known:
            told = master.next(OwnIdentities)
            assert told == OwnIdentities("debug", service.identities or [])
            assert master.next(EndpointOnline).online
        else:
            failed = master.next(RegistrationFailed)
            assert not failed.fatal and "whose credentials" in failed.reason
            assert not any(m.online for m in master.all(EndpointOnline))
    finally:
        master.close()
        service.close()
