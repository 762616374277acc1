"""Host authorization as the manual shows it: pam_shells and pam_limits, seen by researchers."""

from __future__ import annotations

import secrets
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import require, wait_for
from tests.e2e.site import Site

LIMITS = (
    "def seen():\n"
    "    import os, resource\n"
    "    return resource.getrlimit(resource.RLIMIT_NOFILE), os.environ.get('FROM_PAM')\n"
    "with executor(x=1) as ex:\n    print(ex.submit(seen).result(60))\n"
)
REFUSED = (
    "def f():\n    return 1\n"
    "with executor(x=2) as ex:\n    e = ex.submit(f).exception(60)\n"
    "print(type(e).__name__, e)\n"
)


@pytest.fixture(scope="module")
def with_pam(site: Site) -> Iterator[Site]:
    """The site, with the manual's two lines and pam_env for its endpoint."""
    modules = ("pam_shells.so", "pam_limits.so", "pam_env.so")
    found = [any(Path("/").glob(f"lib*/*/security/{m}")) for m in modules]
    require(all(found) or Path("/lib64/security/pam_shells.so").exists(), "PAM modules")
    limits, variables = site.demo.dir / "limits.conf", site.demo.dir / "pam_env.conf"
    limits.write_text("* - nofile 321\n")
    variables.write_text("FROM_PAM DEFAULT=yes\n")
    service = Path(f"/etc/pam.d/mepd-e2e-{secrets.token_hex(4)}")
    service.write_text(
        "account requisite pam_shells.so\naccount required pam_permit.so\n"
        f"session required pam_limits.so conf={limits}\n"
        f"session required pam_env.so conffile={variables} readenv=0\n"
    )
    config = site.demo.dir / "demo/config.yaml"
    try:
        with config.open("a") as file:
            file.write(f"pam:\n  enable: true\n  service_name: {service.name}\n")
        site.logged("changed: config.yaml: pam; in force from the next start", 30)
        yield site
    finally:
        service.unlink()


def test_limits_and_variables_of_pam_reach_a_task(with_pam: Site) -> None:
    """And its UEP is a child of the session process, which stays root."""
    assert with_pam.research(LIMITS) == "((321, 321), 'yes')\n"
    account = with_pam.module.PEOPLE[0].account
    titles = subprocess.run(["ps", "-eo", "user,args"], capture_output=True, text=True).stdout
    (line,) = [t for t in titles.split("\n") if f"mepd: session {account}" in t]
    assert line.split()[0] == "root"


def test_a_shell_that_is_no_shell_is_refused_as_the_manual_says(with_pam: Site) -> None:
    account = with_pam.module.PEOPLE[1].account
    subprocess.run(["usermod", "--shell", "/usr/sbin/nologin", account], check=True)
    try:
        out = with_pam.research(REFUSED, person=2)
    finally:
        subprocess.run(["usermod", "--shell", "/bin/sh", account], check=True)
    assert (
        "Request payload failed validation: Unable to start user endpoint process for"
        f" {account} [exit code: 71; (PermissionError) see your system administrator]"
    ) in out
    assert "pam" not in out.lower()
    with_pam.logged("(error code: 7 [PAM_AUTH_ERR]) Authentication failure")


def test_sessions_end_with_their_user_endpoints(with_pam: Site) -> None:
    account = with_pam.module.PEOPLE[0].account

    def sessions() -> int:
        out = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True).stdout
        return out.count(f"mepd: session {account}")

    assert sessions() == 1
    with_pam.ctl("kill", "--user", account)
    wait_for(lambda: sessions() == 0, 20, "the end of the session")
