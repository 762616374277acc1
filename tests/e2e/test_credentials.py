"""A user endpoint whose broker account was revoked goes on with the new one."""

from __future__ import annotations

import os
import signal
import sqlite3
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.conftest import wait_for
from tests.e2e.site import Site
from tests.e2e.test_peer import peer, with_peer  # noqa: F401

SCRIPT = """
def double(n):
    return 2 * n
with executor(ENGINE='ProcessPoolEngine') as ex:
    print([f.result(150) for f in [ex.submit(double, n) for n in range(3)]])
"""


def revoke_all(site: Site) -> None:
    """End the accounts of all user endpoints at the broker."""
    db = sqlite3.connect(site.demo.dir / "gateway/gateway.db", timeout=30)
    with db:
        assert db.execute("delete from broker_accounts where kind = 'uep'").rowcount
    db.close()


def cut_all(site: Site) -> None:
    """End all connections to the broker."""
    programs = {p["name"]: p["pid"] for p in site.ctl("status")["programs"]}
    os.kill(programs["broker"], signal.SIGKILL)


def runs_tasks(site: Site) -> list[int]:
    """The processes of the user endpoints after the researcher's tasks ran."""
    assert site.research(SCRIPT, timeout=180) == "[0, 2, 4]\n"
    return [u["pid"] for u in site.ctl("list")["ueps"]]


def refreshed(site: Site) -> int:
    return site.log().count("updating credentials")


def test_mepd_uep_after_its_account_was_revoked(site: Site) -> None:
    pids, count = runs_tasks(site), refreshed(site)
    revoke_all(site)
    cut_all(site)
    assert runs_tasks(site) == pids, site.log()[-4000:]
    assert refreshed(site) > count
    for uep in site.ctl("list")["ueps"]:
        os.kill(uep["pid"], signal.SIGKILL)


def test_the_peers_user_endpoint_with_refreshed_credentials(
    with_peer: Site, peer: Path  # noqa: F811
) -> None:
    """A thread of 4.19 that was refused once never connects again, and nothing notices; so
    it sleeps until the new account is there."""
    pids, count = runs_tasks(with_peer), refreshed(with_peer)
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    revoke_all(with_peer)
    cut_all(with_peer)
    with ThreadPoolExecutor(1) as pool:
        after = pool.submit(runs_tasks, with_peer)
        try:
            wait_for(lambda: refreshed(with_peer) > count, 60, "a refresh")
        finally:
            for pid in pids:
                os.kill(pid, signal.SIGCONT)
    assert after.result() == pids, with_peer.log()[-4000:]
