"""F2: secrets of start requests, of the service and of other users are looked for everywhere."""

from __future__ import annotations

import contextlib
import json
import os
import resource
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from mepd_fixtures import Mepd

from tests.conftest import User, is_gone, make_user, remove_user, wait_for

LOOKS = (
    ("status",), ("list",), ("events",), ("failures",), ("check",), ("version",),
    ("tail", "--lines", "2000"), ("tail",), ("whoami",),
)  # fmt: skip


class Canaries:
    """Ten secrets by what they are."""

    def __init__(self) -> None:
        self.all: dict[str, str] = {}

    def new(self, what: str) -> str:
        self.all[what] = f"canary{secrets.token_hex(12)}"
        return self.all[what]

    def found(self, data: bytes, but: Iterable[str] = ()) -> list[str]:
        return [w for w, secret in self.all.items() if secret.encode() in data and w not in but]


@pytest.fixture
def other() -> Iterator[User]:
    """A second person; jessie is the workers' account here."""
    user = make_user()
    yield user
    remove_user(user)


@pytest.fixture
def site(mepd: Mepd) -> Iterator[Mepd]:
    """Every account by its own name, at debug level, with cores allowed and a place for them."""
    rule = {"source": "{username}", "match": "(.*)@example.com", "output": "{0}"}
    mapping = [{"DATA_TYPE": "expression_identity_mapping#1.0.0", "mappings": [rule]}]
    (mepd.folder / "endpoint/map.json").write_text(json.dumps(mapping))
    conf = mepd.folder / "mepd.conf"
    conf.write_text(conf.read_text().replace("[mepd]\n", "[mepd]\nloglevel = debug\n", 1))
    (mepd.folder / "endpoint/user_config_template.yaml.j2").write_text(
        "engine: {type: ThreadPoolEngine}\ndisplay_name: {{ OPTION|default('none') }}\n"
    )
    yield mepd


def request(site: Mepd, name: str, password: str, **options: Any) -> dict[str, Any]:
    body = site.request()
    body["globus_username"] = f"{name}@example.com"
    body["globus_identity_set"][0]["username"] = f"{name}@example.com"
    kwargs = body["kwargs"]
    creds = json.loads(json.dumps(kwargs["amqp_creds"]))
    for info in creds.values():
        if isinstance(info, dict) and "connection_url" in info:
            broker = info["connection_url"].rpartition("@")[2]
            info["connection_url"] = f"amqp://somebody:{password}@{broker}"
    kwargs["amqp_creds"], kwargs["user_opts"] = creds, options
    return body


def memory(pid: int) -> bytes:
    """All that a process can read of itself."""
    data = bytearray()
    with open(f"/proc/{pid}/maps") as maps, open(f"/proc/{pid}/mem", "rb", 0) as mem:
        for line in maps:
            ends, rights = line.split()[:2]
            if "r" not in rights or "[v" in line:
                continue
            start, end = (int(x, 16) for x in ends.split("-"))
            with contextlib.suppress(OSError, ValueError, OverflowError):
                mem.seek(start)
                data += mem.read(end - start)
    return bytes(data)


def families(site: Mepd) -> list[psutil.Process]:
    assert site.process is not None
    master = psutil.Process(site.process.pid)
    return [master, *master.children(recursive=True)]


def test_F2_ten_canaries_are_found_nowhere(
    site: Mepd, harper: User, other: User, tmp_path: Path
) -> None:
    birds = Canaries()
    token = birds.new("the service's token")
    (site.folder / "service.json").write_text(json.dumps({"token": token}))
    place = tmp_path / "cores"
    place.mkdir()
    before = resource.getrlimit(resource.RLIMIT_CORE)
    here = os.getcwd()
    resource.setrlimit(resource.RLIMIT_CORE, (before[1], before[1]))
    os.chdir(place)
    try:
        site.start()
    finally:
        os.chdir(here)
        resource.setrlimit(resource.RLIMIT_CORE, before)
    good = {}
    for user in (harper, other):
        password, option = (birds.new(f"{user.name}'s {x}") for x in ("password", "option"))
        good[user] = request(site, user.name, password, OPTION=option)
    site.service.publish(*good.values())
    wait_for(lambda: len(site.runs()) == 2, 20)
    again = json.loads(json.dumps(good[harper]))
    fresh = request(site, harper.name, birds.new("refreshed password"))
    again["kwargs"]["amqp_creds"] = {
        **fresh["kwargs"]["amqp_creds"], "endpoint_id": again["kwargs"]["amqp_creds"]["endpoint_id"]
    }  # fmt: skip
    bad = request(site, harper.name, birds.new("password of one whose options are bad"))
    bad["kwargs"]["user_opts"] = {"range": birds.new("a bad option")}
    broken = request(site, harper.name, birds.new("password of a broken request"))
    broken["kwargs"]["user_runtime"] = "none"
    stranger = request(site, "no-such-name", birds.new("password of one who is not mapped"))
    site.service.publish(bad, broken, stranger)
    site.service.publish(again, timestamp=int(time.time()) + 2)  # else it would be a replay
    wait_for(lambda: "updating credentials" in site.log(), 20)
    wait_for(lambda: site.log().count("Unable to start user endpoint") >= 2, 20)
    assert len(birds.all) == 10
    site.process and os.kill(site.process.pid, signal.SIGUSR1)  # the table goes to the log

    # What anybody can see of processes, and what root can.
    everybody = families(site)
    ueps = {u: next(p for p in everybody if p.uids().real == u.uid) for u in (harper, other)}
    assert len(everybody) >= 5
    for one in everybody:
        for name in ("cmdline", "environ", "comm", "status"):
            with contextlib.suppress(ProcessLookupError, FileNotFoundError):  # a launch child
                seen = Path(f"/proc/{one.pid}/{name}").read_bytes()
                assert not birds.found(seen), (one, name)
    mepctl = str(Path(sys.prefix) / "bin/mepctl")
    names = [x["kwargs"]["name"].rpartition(".")[2] for x in good.values()]
    for words in (*LOOKS, *(("show", name) for name in names)):
        for more in ([], ["--json"]):
            out = subprocess.run(
                [mepctl, "-c", str(site.folder / "mepd.conf"), *words, *more], capture_output=True,
                timeout=60,
            )  # fmt: skip
            assert not birds.found(out.stdout + out.stderr), words

    # One user's secrets, and the site's, in the memory of another's UEP.
    for user, uep in ueps.items():
        mine = {w for w in birds.all if w.startswith(user.name)}
        assert not birds.found(memory(uep.pid), mine), user.name

    # Nobody's death leaves a core.
    workers = [p for p in everybody if p.pid != everybody[0].pid and p not in ueps.values()]
    for one in (*workers, everybody[0], *ueps.values()):
        with contextlib.suppress(psutil.Error, ProcessLookupError):
            os.kill(one.pid, signal.SIGABRT if one.pid % 2 else signal.SIGSEGV)
    wait_for(lambda: all(is_gone(p.pid) for p in everybody), 20)
    assert site.process is not None and site.process.wait(10) != 0
    homes = [Path(u.home) for u in (harper, other)]
    for folder in (place, site.folder, Path("/"), Path("/tmp"), *homes):
        assert not list(folder.glob("core*")), folder

    # Files: the log, the folder of mepd, those of the users, and /run.
    files = [p for p in site.folder.rglob("*") if p.is_file() and p.name != "service.json"]
    files += [p for p in Path("/run").rglob("mepd*") if p.is_file()]
    for user in (harper, other):
        files += [p for p in (Path(user.home) / ".globus_compute").rglob("*") if p.is_file()]
    assert any(p.name == "mepd.log" for p in files) and any(p.name == "endpoint.log" for p in files)
    for path in files:
        assert not birds.found(path.read_bytes()), path
