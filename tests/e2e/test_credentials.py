"""A user endpoint whose broker account is revoked while it runs goes on with the new one."""

from __future__ import annotations

import os
import signal
import sqlite3
from pathlib import Path

from tests.e2e.site import Site
from tests.e2e.test_peer import peer, with_peer  # noqa: F401

SCRIPT = """
def double(n):
    return 2 * n
with executor(ENGINE='ProcessPoolEngine') as ex:
    print([f.result(150) for f in [ex.submit(double, n) for n in range(3)]])
"""


def revoke_all(site: Site) -> None:
    """End the accounts of all user endpoints at the broker, and their connections."""
    db = sqlite3.connect(site.demo.dir / "gateway/gateway.db", timeout=30)
    with db:
        assert db.execute("delete from broker_accounts where kind = 'uep'").rowcount
    db.close()
    programs = {p["name"]: p["pid"] for p in site.ctl("status")["programs"]}
    os.kill(programs["broker"], signal.SIGKILL)


def survives(site: Site) -> None:
    """The same process runs tasks before and after; whoever submits has it refreshed."""
    assert site.research(SCRIPT, timeout=180) == "[0, 2, 4]\n"
    before = [u["pid"] for u in site.ctl("list")["ueps"]]
    refreshed = site.log().count("updating credentials")
    revoke_all(site)
    assert site.research(SCRIPT, timeout=180) == "[0, 2, 4]\n"
    assert [u["pid"] for u in site.ctl("list")["ueps"]] == before, site.log()[-4000:]
    assert site.log().count("updating credentials") > refreshed


def test_mepd_uep_after_its_account_was_revoked(site: Site) -> None:
    survives(site)
    for uep in site.ctl("list")["ueps"]:
        os.kill(uep["pid"], signal.SIGKILL)


def test_the_peers_user_endpoint_after_its_account_was_revoked(
    with_peer: Site, peer: Path  # noqa: F811
) -> None:
    survives(with_peer)
