"""The main job: a stock Executor's function runs as the mapped account."""

from __future__ import annotations

import pwd
import subprocess
from pathlib import Path

from tests.conftest import require, wait_for
from tests.e2e.site import Site

WHO = "def who():\n    import getpass, os\n    return os.getuid(), getpass.getuser()\n"


def test_the_manuals_example_for_two_people(site: Site) -> None:
    """The researcher's script with the environment of env.sh and nothing else."""
    require(site.stock, "port 5000 for a stock client")
    for person, _, _ in site.demo.people:
        site.demo.research(person)
    users = {u["user"]: u for u in site.ctl("list")["ueps"]}
    for person in site.module.PEOPLE:
        entry = users[person.account]
        assert entry["uid"] == pwd.getpwnam(person.account).pw_uid
        assert entry["done"] >= 101 and entry["state"] == "RUNNING"


def test_each_person_is_their_own_account(site: Site) -> None:
    code = WHO + "with executor() as ex:\n    print(ex.submit(who).result(60))\n"
    for number, person in enumerate(site.module.PEOPLE, start=1):
        entry = pwd.getpwnam(person.account)
        assert site.research(code, number) == f"({entry.pw_uid}, '{entry.pw_name}')\n"


def test_process_engine_and_two_configurations(site: Site) -> None:
    code = (
        "def pid(n):\n    import os, time\n    time.sleep(0.2)\n    return os.getpid()\n"
        "with executor(ENGINE='ProcessPoolEngine') as ex:\n"
        "    first = {f.result(60) for f in [ex.submit(pid, i) for i in range(6)]}\n"
        "    ex.user_endpoint_config['NODES_PER_BLOCK'] = 1\n"
        "    second = {f.result(60) for f in [ex.submit(pid, i) for i in range(3)]}\n"
        "print(len(first), len(second), first & second)\n"
    )
    before = {u["id"] for u in site.ctl("list")["ueps"]}
    assert site.research(code) == "2 1 set()\n"
    after = {u["id"] for u in site.ctl("list")["ueps"]}
    assert len(after - before) == 2


def test_the_engine_of_the_manuals_template(site: Site) -> None:
    """Parsl on this machine: as the account, with worker_init, and with the peer's errors."""
    code = (
        "def where():\n    import os\n    return os.getuid(), os.environ.get('CHOICE')\n"
        "with executor(ENGINE='GlobusComputeEngine', worker_init='export CHOICE=42') as ex:\n"
        "    print(ex.submit(where).result(60))\n"
        "    ex.resource_specification = {'num_nodes': 2}\n"
        "    print('num_nodes' in str(ex.submit(where).exception(60)))\n"
        "with executor(ENGINE='GlobusComputeEngine', NODES_PER_BLOCK='x') as ex:\n"
        "    print('engine.max_workers_per_node' in str(ex.submit(where).exception(60)))\n"
    )
    entry = pwd.getpwnam(site.module.PEOPLE[0].account)
    assert site.research(code) == f"({entry.pw_uid}, '42')\nTrue\nTrue\n"


def test_an_exception_reaches_the_researcher(site: Site) -> None:
    code = (
        "def bad():\n    raise ValueError('as asked')\n"
        "with executor() as ex:\n"
        "    print(type(ex.submit(bad).exception(60)).__name__)\n"
        "    print('as asked' in str(ex.submit(bad).exception(60)))\n"
    )
    assert site.research(code) == "TaskExecutionFailed\nTrue\n"


def test_a_reserved_word_is_refused_with_the_manuals_text(site: Site) -> None:
    code = (
        "def f():\n    return 1\n"
        "with executor(parent_config='not allowed') as ex:\n"
        "    e = ex.submit(f).exception(60)\n"
        "print(e.http_status, e.code, e.message)\n"
    )
    account = site.module.PEOPLE[0].account
    out = site.research(code)
    assert out.startswith("422 SEMANTICALLY_INVALID Request payload failed validation: ")
    assert (
        f"Unable to start user endpoint process for {account} [exit code: 77; (ValueError)"
        " 'parent_config' is a reserved word and cannot be passed in via user config]"
    ) in out


def test_ps_shows_the_titles_of_the_design(site: Site) -> None:
    out = site.research(WHO + "with executor() as ex:\n    print(ex.submit(who).result(60))\n")
    assert out
    titles = []
    for pid in site.family():
        raw = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
        titles.append(raw.strip())
    for wanted in (
        "mepd: master", "mepd: amqp-consumer", "mepd: config-watcher", "mepd: program broker",
        "mepd: program gateway", f"mepd-uep {site.module.PEOPLE[0].account} ",
    ):  # fmt: skip
        assert any(t.startswith(wanted) for t in titles), (wanted, titles)


def test_workers_have_no_rights(site: Site) -> None:
    for worker in site.ctl("status")["workers"]:
        status = Path(f"/proc/{worker['pid']}/status").read_text()
        uid = pwd.getpwnam("mepd").pw_uid
        assert f"Uid:\t{uid}\t{uid}\t{uid}\t{uid}" in status
        assert "CapEff:\t0000000000000000" in status and "NoNewPrivs:\t1" in status


def test_kill_and_own_view(site: Site) -> None:
    site.research(WHO + "with executor(x='k') as ex:\n    print(ex.submit(who).result(60))\n")
    person = site.module.PEOPLE[0]
    mine = [u for u in site.ctl("list")["ueps"] if u["user"] == person.account]
    mepctl = str(site.prefix / "bin/mepctl")
    sock = str(site.demo.dir / "run/mepd.sock")

    def as_user(account: str, *words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [mepctl, "-s", sock, *words], user=account, group=account, extra_groups=[],
            capture_output=True, text=True, cwd="/", env={"PATH": "/usr/bin", "HOME": "/"},
        )  # fmt: skip

    other = site.module.PEOPLE[1].account
    assert mine[0]["id"] not in as_user(other, "list", "--json").stdout
    refused = as_user(other, "kill", mine[0]["id"])
    assert refused.returncode == 69 and "no user endpoint matches" in refused.stderr
    assert as_user(other, "shutdown").returncode == 77
    assert mine[0]["id"] in as_user(person.account, "list", "--json").stdout
    assert as_user(person.account, "kill", mine[0]["id"][:13]).returncode == 0
    wait_for(lambda: all(u["id"] != mine[0]["id"] for u in site.ctl("list")["ueps"]), 10)


def test_F2_credentials_are_nowhere_to_be_seen(site: Site) -> None:
    """No broker password, secret or token in argv, environ or a log."""
    import json

    secrets = [
        json.loads((site.demo.dir / "gateway/broker.json").read_text())["password"],
        json.loads((site.demo.dir / "service.json").read_text())["client_secret"],
    ]
    for number in (1, 2):
        env = site.environment(number)
        secrets += [env["GLOBUS_COMPUTE_CLIENT_SECRET"], env["MEPD_TOKEN"]]
    places = list((site.demo.dir / "log").iterdir())
    for pid in site.family():
        places += [Path(f"/proc/{pid}/cmdline"), Path(f"/proc/{pid}/environ")]
    for person in site.module.PEOPLE:
        home = Path(pwd.getpwnam(person.account).pw_dir)
        places += list(home.glob(".globus_compute/*/endpoint.log"))
    for place in places:
        try:
            data = place.read_bytes()
        except (FileNotFoundError, ProcessLookupError):
            continue
        for secret in secrets:
            assert secret.encode() not in data, place
