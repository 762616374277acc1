"""globus-compute-endpoint itself: as the user endpoint under mepd, and as a manager."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests

from tests.conftest import require, wait_for
from tests.e2e.site import Site

PEER = Path(os.environ.get("MEPD_TEST_PEER", "/nonexistent"))
TEMPLATE = """\
display_name: peer
engine:
  type: {{ ENGINE|default("ThreadPoolEngine") }}
  max_workers: 2
idle_heartbeats_soft: 10
idle_heartbeats_hard: 5760
heartbeat_period: 5
"""
RESULTS = (
    "def who(x):\n    import getpass, sys\n    return getpass.getuser(), sys.prefix, x * 2\n"
    "def fails():\n    raise KeyError('no such thing')\n"
    "with executor(ENGINE={engine!r}) as ex:\n"
    "    futures = [ex.submit(who, i) for i in range(10)]\n"
    "    print([f.result(90) for f in futures])\n"
    "    print('no such thing' in str(ex.submit(fails).exception(60)))\n"
)


@pytest.fixture(scope="module")
def peer() -> Path:
    require((PEER / "bin/globus-compute-endpoint").exists(), "MEPD_TEST_PEER")
    return PEER


@pytest.fixture(scope="module")
def with_peer(site: Site, peer: Path) -> Iterator[Site]:
    """A second endpoint of the site, whose user endpoints are the peer's."""
    folder = site.demo.dir / "demo"
    shutil.copytree(folder, site.demo.dir / "demo.bak")
    changes = site.log().count("Configuration of endpoint demo changed")
    (folder / "user_config_template.yaml.j2").write_text(TEMPLATE)
    environment = f"PATH: {peer}/bin:/usr/bin:/bin\n"
    (folder / "user_environment.yaml").write_text(environment)
    with (folder / "config.yaml").open("a") as config:
        config.write("uep_command: globus-compute-endpoint\n")
    wait_for(
        lambda: site.log().count("Configuration of endpoint demo changed") > changes
        and "uep_command" in site.log(),
        30, "the reload",
    )  # fmt: skip
    yield site


@pytest.mark.parametrize("engine", ["ThreadPoolEngine", "ProcessPoolEngine"])
def test_the_peers_user_endpoint_under_mepd(with_peer: Site, peer: Path, engine: str) -> None:
    account = with_peer.module.PEOPLE[0].account
    out = with_peer.research(RESULTS.format(engine=engine), timeout=150)
    wanted = [(account, str(peer), i * 2) for i in range(10)]
    assert out == f"{wanted}\nTrue\n"


class Manager:
    """globus-compute-endpoint as root, registered at the site's gateway by nothing but the
    environment."""

    def __init__(self, site: Site, peer: Path) -> None:
        self.dir = site.demo.dir / "peer"
        self.folder = self.dir / "manager"
        self.folder.mkdir(parents=True, mode=0o700)
        client = json.loads((site.demo.dir / "service.json").read_text())
        self.environment = {
            "PATH": f"{peer}/bin:/usr/bin:/bin",
            "HOME": str(self.dir),
            "GLOBUS_COMPUTE_USER_DIR": str(self.dir),
            "GLOBUS_SDK_ENVIRONMENT": "local",
            "GLOBUS_SDK_SERVICE_URL_AUTH": site.environment()["GLOBUS_SDK_SERVICE_URL_AUTH"],
            "GLOBUS_COMPUTE_CLIENT_ID": client["client_id"],
            "GLOBUS_COMPUTE_CLIENT_SECRET": client["client_secret"],
        }
        mapping = self.folder / "example_identity_mapping_config.json"
        shutil.copy(site.demo.dir / "demo.bak" / mapping.name, mapping)
        (self.folder / "config.yaml").write_text(
            "display_name: the peer\nemail: root@example.org\npublic: true\n"
            f"local_compute_services: true\nidentity_mapping_config_path: {mapping}\n"
        )
        (self.folder / "user_config_template.yaml.j2").write_text(TEMPLATE)
        (self.folder / "user_environment.yaml").write_text(f"PATH: {peer}/bin:/usr/bin:/bin\n")
        with (self.dir / "console").open("wb") as console:
            self.process = subprocess.Popen(
                [peer / "bin/globus-compute-endpoint", "start", "manager"],
                env=self.environment, cwd=self.dir, stdin=subprocess.DEVNULL,
                stdout=console, stderr=console, start_new_session=True,
            )  # fmt: skip

    def log(self) -> str:
        files = (self.dir / "console", self.folder / "endpoint.log")
        return "".join(f.read_text() for f in files if f.exists())

    @property
    def endpoint_id(self) -> str:
        """Once it is registered."""
        found = self.folder / "endpoint.json"
        end = time.monotonic() + 60
        while not found.exists():
            assert self.process.poll() is None and time.monotonic() < end, self.log()[-4000:]
            time.sleep(0.1)
        return str(json.loads(found.read_text())["endpoint_id"])

    def stop(self) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(20)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()


def online(site: Site, endpoint_id: str) -> bool:
    environment = site.environment()
    answer = requests.get(
        f"{environment['MEPD_URL']}/v2/endpoints/{endpoint_id}/status", timeout=10,
        headers={"Authorization": f"Bearer {environment['MEPD_TOKEN']}"},
    )  # fmt: skip
    return bool(answer.json().get("status") == "online")


def test_the_peer_as_the_manager(with_peer: Site, peer: Path) -> None:
    """It registers, starts user endpoints and works: clients see no difference."""
    require(with_peer.stock, "port 5000")
    manager = Manager(with_peer, peer)
    try:
        code = RESULTS.format(engine="ThreadPoolEngine").replace(
            "with executor(", f"E['MEPD_ENDPOINT_ID'] = {manager.endpoint_id!r}\nwith executor("
        )
        wait_for(lambda: online(with_peer, manager.endpoint_id), 60, "the peer's first heartbeat")
        out = with_peer.research(code, timeout=150)
        account = with_peer.module.PEOPLE[0].account
        wanted = [(account, str(peer), i * 2) for i in range(10)]
        assert out == f"{wanted}\nTrue\n", manager.log()[-4000:]
    finally:
        manager.stop()
