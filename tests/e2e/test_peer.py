"""globus-compute-endpoint itself: as the user endpoint under mepd, and as a manager."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests

from tests.conftest import require, wait_for
from tests.e2e.peer import TEMPLATE, Manager
from tests.e2e.site import Site

PEER = Path(os.environ.get("MEPD_TEST_PEER", "/nonexistent"))
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


def test_the_peers_tasks_in_the_audit_log(with_peer: Site) -> None:
    """globus-compute-endpoint writes to the descriptor that it is given, as to its own manager."""
    config = with_peer.demo.dir / "demo/config.yaml"
    changes = with_peer.log().count("Configuration of endpoint demo changed")
    config.write_text(f"{config.read_text()}audit_log_path: audit.log\n")
    wait_for(
        lambda: with_peer.log().count("Configuration of endpoint demo changed") > changes, 30,
        "the reload",
    )  # fmt: skip
    with_peer.research(RESULTS.format(engine="ThreadPoolEngine").replace("ENGINE=", "x=1, ENGINE="))
    path = with_peer.demo.dir / "demo/audit.log"
    wait_for(lambda: path.read_text().count(" EXEC_END\n") == 11, 20, "the last record")
    lines = path.read_text().splitlines()
    assert sum(line.endswith(" RECEIVED") for line in lines) == 11, lines


def manager_of(site: Site, peer: Path) -> Manager:
    """A manager registered at the site's gateway."""
    return Manager(
        site.demo.dir / "peer",
        peer,
        site.environment()["GLOBUS_SDK_SERVICE_URL_AUTH"],
        json.loads((site.demo.dir / "service.json").read_text()),
        site.demo.dir / "demo.bak/example_identity_mapping_config.json",
    )


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
    manager = manager_of(with_peer, peer)
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
