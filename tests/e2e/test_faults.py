"""Faults of a whole site: killed processes, hostile messages, orderly stops."""

from __future__ import annotations

import json
import os
import signal
import time
import uuid
from typing import Any

import pika
import pytest

from mepd.wire import message as wire_message
from tests.conftest import is_gone, wait_for
from tests.e2e.site import Site
from tests.e2e.test_template import edit
from tests.root.launching import creds

HELLO = (
    "def hello():\n    import getpass\n    return getpass.getuser()\n"
    "with executor(x={x!r}) as ex:\n    print(ex.submit(hello).result(90))\n"
)


def hello(site: Site, x: str = "") -> None:
    account = site.module.PEOPLE[0].account
    assert site.research(HELLO.format(x=x)) == f"{account}\n"


def test_R1_sigkill_of_the_master_leaves_nothing(fresh: Site) -> None:
    """UEPs, their workers, the network workers, the broker and the gateway: gone in 2 s."""
    hello(fresh)
    ueps = [u["pid"] for u in fresh.ctl("list")["ueps"]]
    os.kill(ueps[0], signal.SIGSTOP)  # also what is stopped
    family = fresh.kill()
    assert len(family) >= 8 and set(ueps) <= set(family)
    deadline = time.monotonic() + 2
    while (left := [p for p in family if not is_gone(p)]) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not left
    # C5: what the dead left behind does not hinder the next one; nobody said goodbye, so
    # the gateway must not wait for heartbeats to be missed.
    fresh.start()
    fresh.research(HELLO.format(x="").replace("90", "60"))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGQUIT])
def test_an_orderly_stop(fresh: Site, number: int) -> None:
    """Everything ends within 10 s, the UEP with its own goodbye, and the exit code is 0."""
    hello(fresh)
    family = fresh.family()
    os.kill(family[0], number)
    deadline = time.monotonic() + 10
    while (left := [p for p in family if not is_gone(p)]) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not left
    log = fresh.log()
    assert log.rstrip().endswith("mepd stopped")
    assert f"Signaling {signal.Signals(number).name} to user endpoint" in log
    assert "Command stopped normally" in log
    assert not (fresh.demo.dir / "run/mepd.sock").exists()


class Intruder:
    """Publishes what it likes to the command queue: a compromised gateway or broker."""

    def __init__(self, site: Site) -> None:
        self.site = site
        account = json.loads((site.demo.dir / "gateway/broker.json").read_text())
        conf = (site.demo.dir / "broker/rabbitmq.conf").read_text()
        port = next(line for line in conf.splitlines() if line.startswith("listeners.tcp.1"))
        self.credentials = pika.PlainCredentials(account["username"], account["password"])
        self.port = int(port.rpartition(":")[2])
        self.url = f"amqp://{account['username']}:{account['password']}@127.0.0.1:{self.port}/%2F"
        self.connection = pika.BlockingConnection(
            pika.ConnectionParameters("127.0.0.1", self.port, "/", self.credentials)
        )
        self.channel = self.connection.channel()
        self.notices = self.channel.queue_declare("", exclusive=True).method.queue
        self.mep = site.demo.endpoint_id

    def queue(self) -> str:
        """The endpoint's command queue, asked of the broker itself."""
        from mepd.gateway import names

        return names.command_queue(self.mep)

    def publish(self, body: bytes, **properties: Any) -> None:
        values = {
            "content_type": "application/json", "timestamp": int(time.time()), **properties,
        }  # fmt: skip
        self.channel.basic_publish("", self.queue(), body, pika.BasicProperties(**values))

    def start(self, username: str, **changes: Any) -> str:
        """A forged but well-formed start request; its notices come to our own queue."""
        uep, who = str(uuid.uuid4()), str(uuid.uuid4())
        amqp = creds(uep)
        for key in ("task_queue_info", "result_queue_info", "heartbeat_queue_info"):
            amqp[key] = {
                "connection_url": self.url, "queue": self.notices, "exchange": "",
                "queue_publish_kwargs": {"exchange": "", "routing_key": self.notices},
            }  # fmt: skip
        body: dict[str, Any] = {
            "command": "cmd_start_endpoint",
            "args": [],
            "kwargs": {
                "name": f"uep.{self.mep}.{uep}", "amqp_creds": amqp, "user_opts": {},
                "user_runtime": {},
            },
            "globus_effective_identity": who,
            "globus_username": username,
            "globus_identity_set": [
                {"id": who, "sub": who, "username": username, "status": "used"}
            ],
            **changes,
        }  # fmt: skip
        self.publish(json.dumps(body).encode())
        return uep

    def notice(self) -> str:
        """The error text of the next failure notice."""

        def get() -> bytes | None:
            _, _, body = self.channel.basic_get(self.notices, auto_ack=True)
            return body  # type: ignore[no-any-return]

        report = wire_message.unpack_status(wait_for(get, 20, "a failure notice"))
        return str(report.global_state["error"])

    def drained(self) -> bool:
        """Whether the command queue holds nothing, delivered or not."""
        state = self.channel.queue_declare(self.queue(), passive=True).method
        return int(state.message_count) == 0


def test_A4_hostile_messages(site: Site) -> None:
    """Logged, answered where credentials allow, never fatal, never looping."""
    intruder = Intruder(site)
    pid = site.pid
    for body, properties in (
        (b"no json", {}),
        (os.urandom(1000), {}),
        (b"[" * 200_000, {}),
        (b"x" * 10_000_000, {}),
        (b"null", {}),
        (b'{"kwargs": null}', {"timestamp": 0}),
        (b'{"command": null, "kwargs": []}', {}),
        (b"{}", {"timestamp": int(time.time() * 1000)}),
        (b"{}", {"content_type": "text/plain"}),
    ):
        intruder.publish(body, **properties)
    intruder.start("harper@example.org", globus_identity_set=[])
    assert "globus_identity_set" in intruder.notice()
    intruder.start("root@example.org", command="cmd_rm")
    assert "unknown command" in intruder.notice()
    wait_for(intruder.drained, 20)
    assert site.pid == pid
    hello(site, "after")


def test_identities_that_must_not_run(site: Site) -> None:
    """Mapped to root, to nobody that exists, or to nothing: refused, opaque to the sender."""
    mapping = site.demo.dir / "demo/example_identity_mapping_config.json"
    old = mapping.read_text()
    rules = [
        {"source": "{username}", "match": "evil@example\\.org", "output": "root"},
        {"source": "{username}", "match": "mepd@example\\.org", "output": "mepd"},
        {"source": "{username}", "match": "path@example\\.org", "output": "../../root"},
        {"source": "{username}", "match": "(.*)@example\\.org", "output": "mepd-{0}"},
    ]
    document = [{"DATA_TYPE": "expression_identity_mapping#1.0.0", "mappings": rules}]
    count = site.log().count("Configuration of endpoint demo changed")
    mapping.write_text(json.dumps(document))
    try:
        wait_for(
            lambda: site.log().count("Configuration of endpoint demo changed") > count, 20,
            "the reload",
        )  # fmt: skip
        intruder = Intruder(site)
        for username, reason in (
            ("evil@example.org", "has uid 0"),
            ("mepd@example.org", "belongs to mepd itself"),
            ("path@example.org", "is not a plain user name"),
        ):
            intruder.start(username)
            assert intruder.notice() == (
                "Unable to start user endpoint process"
                " [exit code: 70; (PermissionError) see your system administrator]"
            )
            site.logged(reason)
        intruder.start("stranger@example.org")
        assert "local user does not exist" in intruder.notice()
        intruder.start("x@elsewhere.example")
        assert "Identity failed to map to a local user name." in intruder.notice()
    finally:
        mapping.write_text(old)
    wait_for(intruder.drained, 20)


def test_I9_a_start_for_anothers_uep_is_refused(site: Site) -> None:
    """Another identity names a running UEP: CRITICAL, and its credentials stay."""
    hello(site, "victim")
    victim = site.ctl("list")["ueps"][0]
    intruder = Intruder(site)
    who = str(uuid.uuid4())
    amqp = creds(victim["id"])
    body = {
        "command": "cmd_start_endpoint", "args": [],
        "kwargs": {"name": victim["name"], "amqp_creds": amqp},
        "globus_effective_identity": who,
        "globus_username": "jessie@example.org",
        "globus_identity_set": [
            {"id": who, "sub": who, "username": "jessie@example.org", "status": "used"}
        ],
    }  # fmt: skip
    intruder.publish(json.dumps(body).encode())
    site.logged(f"start request for {victim['name']} by identity {who}")
    assert "CRITICAL" in next(line for line in site.log().splitlines() if who in line)
    wait_for(intruder.drained, 20)
    hello(site, "victim")
    still = [u for u in site.ctl("list")["ueps"] if u["id"] == victim["id"]]
    assert [u["pid"] for u in still] == [victim["pid"]]


def test_A1_killed_consumer_is_replaced_and_serves(site: Site) -> None:
    for round_ in range(3):
        (worker,) = [w for w in site.ctl("status")["workers"] if w["name"] == "amqp-consumer"]
        os.kill(worker["pid"], signal.SIGKILL)
        hello(site, f"round {round_}")
    status = site.ctl("status")
    assert all(w["state"] == "RUNNING" for w in status["workers"])


def test_a_killed_gateway_or_broker_is_started_again(site: Site) -> None:
    for name in ("gateway", "broker"):
        (program,) = [p for p in site.ctl("status")["programs"] if p["name"] == name]
        os.kill(program["pid"], signal.SIGKILL)

        def again(name: str = name, old: int = program["pid"]) -> bool:
            (now,) = [p for p in site.ctl("status")["programs"] if p["name"] == name]
            return now["state"] == "RUNNING" and now["pid"] != old

        wait_for(again, 30, f"{name} to run again")
        wait_for(lambda: site.ctl("status")["endpoints"][0]["online"], 60, "the endpoint")
        hello(site, "after " + name)


def test_R5_a_uep_killed_by_a_signal_is_replaced_and_no_future_hangs(site: Site) -> None:
    code = (
        "def slow():\n    import time\n    time.sleep(3)\n    return 'slow'\n"
        "def quick():\n    return 'quick'\n"
        "import os, signal, subprocess, json, time\n"
        "with executor(x='r5') as ex:\n"
        "    assert ex.submit(quick).result(60) == 'quick'\n"
        "    f = ex.submit(slow)\n"
        "    time.sleep(1.0)\n"
        "    out = subprocess.run(['mepctl', 'list', '--json'], capture_output=True).stdout\n"
        "    for u in json.loads(out)['ueps']:\n"
        "        if u['running']: os.kill(u['pid'], signal.SIGKILL)\n"
        "    e = f.exception(60)\n"
        "    print('told' if e is not None else f.result())\n"
        "with executor(x='r5') as ex:\n"
        "    print(ex.submit(quick).result(60))\n"
    )
    assert site.research(code) == "told\nquick\n"
    site.logged("Command terminated by signal: 9")


def test_R6_a_refused_fork_is_answered(site: Site) -> None:
    """The master may make no further process; the next start after that works."""
    import resource

    pid = site.pid
    old = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    used = len(os.listdir(f"/proc/{pid}/fd"))
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (used + 1, old[1]))
    try:
        intruder = Intruder(site)
        intruder.start("harper@example.org")
        assert "the system is out of resources" in intruder.notice()
    finally:
        resource.prlimit(pid, resource.RLIMIT_NOFILE, old)
    assert site.pid == pid
    hello(site, "after r6")


def test_second_instance_is_refused(site: Site) -> None:
    import subprocess

    done = subprocess.run(
        [site.prefix / "bin/mepd", "-c", site.demo.conf], capture_output=True, text=True
    )
    assert done.returncode == 73 and f"already running (pid {site.pid}" in done.stderr


def test_sighup_keeps_user_endpoints(site: Site) -> None:
    hello(site, "hup")
    before = {u["id"]: u["pid"] for u in site.ctl("list")["ueps"]}
    os.kill(site.pid, signal.SIGHUP)
    site.logged("rereading the configuration")
    hello(site, "hup")
    after = {u["id"]: u["pid"] for u in site.ctl("list")["ueps"]}
    assert before.items() <= after.items()


HUNG = """
def slow():
    import time
    time.sleep(600)
def quick():
    return 'quick'
import json, signal, subprocess, time
with executor(x='r4') as ex:
    assert ex.submit(quick).result(60) == 'quick'
    f = ex.submit(slow)
    time.sleep(2)
    out = subprocess.run(['mepctl', 'list', '--json'], capture_output=True).stdout
    (pid,) = [u['pid'] for u in json.loads(out)['ueps'] if u['running']]
    os.kill(pid, signal.SIGSTOP)
    print(pid, str(f.exception(90)).strip().splitlines()[-1].strip())
with executor(x='r4') as ex:
    print(ex.submit(quick).result(60))
"""


def test_R4_a_stopped_uep_is_reaped_as_hung_and_no_future_hangs(site: Site) -> None:
    """It neither reports nor heeds SIGTERM: three periods, then the deadline, then SIGKILL."""
    template = site.demo.dir / "demo/user_config_template.yaml.j2"
    edit(site, template, template.read_text() + "heartbeat_period: 1\n")
    first, last = site.research(HUNG, timeout=200).splitlines()
    pid, _, said = first.partition(" ")
    assert said == "the endpoint died while running this task; it was not run again"
    assert last == "quick" and is_gone(int(pid))
    lines = [line for line in site.log().splitlines() if f"({pid})" in line]
    assert "Command terminated by signal: 9" in lines[-1] and "hung" in lines[-1], lines
