"""The quick start of mepd(8), word by word, on a Debian with systemd; then its life there."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import require, wait_for
from tests.e2e import container
from tests.e2e.container import Container

pytestmark = pytest.mark.timeout(400)
MAN = Path(__file__).resolve().parents[2] / "man/mepd.8"
DROP_IN = "/etc/systemd/system/mepd.service.d"
HASTE = "[Service]\\nRestartSec=0.1\\nWatchdogSec=6\\n"
PAM = "/opt/mepd/share/mepd/globus-compute-endpoint.pam"


def quick_start() -> list[str]:
    """The steps' commands as one reads them: each begins with ``# `` or, a user's, ``$ ``."""
    section = MAN.read_text().partition(".Ss Quick start")[2].partition("\n.El\n")[0]
    steps = []
    for step in section.split("\n.It\n")[1:]:
        blocks = re.findall(r"^\.Bd -literal\n(.*?)^\.Ed", step, re.M | re.S)
        steps.append("".join(blocks).replace("\\e", "\\"))
    return steps


def as_root(step: str) -> str:
    return "set -e\n" + re.sub(r"^# ", "", step, flags=re.M)


class Machine(Container):
    """With what happened in it so far."""

    def status(self) -> dict[str, Any]:
        return dict(json.loads(self.run("mepctl", "status", "--json")))

    def ueps(self) -> list[dict[str, Any]]:
        return list(json.loads(self.run("mepctl", "list", "--json"))["ueps"])

    def master(self) -> int:
        return int(self.show("MainPID"))

    def show(self, name: str) -> str:
        return self.run("systemctl", "show", "--value", f"--property={name}", "mepd").strip()

    def log_text(self) -> str:
        return (self.root / "var/log/mepd/mepd.log").read_text()

    def is_online(self) -> bool:
        try:
            return all(e["online"] for e in self.status()["endpoints"])
        except (AssertionError, ValueError):
            return False

    def first_result(self, steps: list[str]) -> str:
        """The two last steps of the quick start, as harper."""
        script = re.sub(r"^\$ ", "", "\n".join(steps), flags=re.M)
        for name, value in self.harper.items():
            script = re.sub(rf"\b{name}\b", value, script)
        return self.run("runuser", "-l", "harper", "-c", script)

    harper: dict[str, str]


@pytest.fixture(scope="module")
def machine() -> Iterator[Machine]:
    require(container.is_possible(), "root, systemd-nspawn and scripts/test's container")
    made = Machine()
    try:
        made.boot()
        follow_the_quick_start(made)
        yield made
    finally:
        made.close()


def follow_the_quick_start(m: Machine) -> None:
    steps = quick_start()
    assert len(steps) == 9
    m.shell("systemctl disable --now rabbitmq-server epmd.socket epmd.service")
    gateway = re.search(r"^# (gateway\(\).*)$", steps[3], re.M)
    assert gateway is not None
    said = m.shell(as_root(steps[1]))
    assert said == (
        "Systemd service installed at /etc/systemd/system/mepd.service. Run\n"
        "\tsudo systemctl enable mepd --now\n"
        "to enable the service and start the endpoint.\n"
    )
    m.shell(f"mkdir {DROP_IN}; printf '{HASTE}' > {DROP_IN}/haste.conf; systemctl daemon-reload")
    for step in steps[2:6]:
        m.shell(as_root(step))
    endpoint = m.status()["endpoints"][0]
    assert endpoint["online"], f"ready before its endpoints are: {endpoint}\n{m.log_text()}"
    said = m.shell(f"{gateway[1]}\n{as_root(steps[6])}")
    found = re.findall(r"client_(id|secret)\W+([\w.~-]{20,})", said)
    assert [name for name, _ in found] == ["id", "secret"], said
    m.harper = {"CLIENT_ID": found[0][1], "CLIENT_SECRET": found[1][1],
                "ENDPOINT_ID": endpoint["id"]}  # fmt: skip


def test_the_first_result(machine: Machine) -> None:
    steps = quick_start()
    assert machine.first_result(steps[7:]).endswith("hello from harper\n")
    (uep,) = machine.ueps()
    assert uep["user"] == "harper"
    wait_for(
        lambda: machine.show("StatusText") == "1 of 1 endpoint online; 1 user endpoint of 1 user"
    )
    (audit,) = [line for line in machine.log_text().splitlines() if "audit start" in line]
    assert f"outcome=started uep={uep['name']} endpoint=gpu" in audit and "user=harper" in audit
    service = machine.show("User"), machine.run("id", "-un", "mepd").strip()
    assert service == ("", "mepd") and "mepd: amqp-consumer" in machine.shell("ps -u mepd -o args")


def test_logrotate(machine: Machine) -> None:
    """With the file that is shipped: moved, and written on as a new one."""
    machine.shell("cp /opt/mepd/share/mepd/mepd.logrotate /etc/logrotate.d/mepd")
    machine.shell("logrotate --force /etc/logrotate.d/mepd")
    wait_for(lambda: "log reopened" in machine.log_text(), 10, "the new log")
    old = machine.root / "var/log/mepd/mepd.log.1"
    assert "audit start" in old.read_text() and "audit start" not in machine.log_text()


def test_no_process_shows_a_secret(machine: Machine) -> None:
    shown = machine.shell("cat /proc/[0-9]*/cmdline /proc/[0-9]*/environ | tr '\\0' '\\n'")
    assert machine.harper["CLIENT_SECRET"] not in shown
    assert "NOTIFY_SOCKET" not in machine.shell(
        "for p in $(pgrep -u harper -f mepd-uep); do tr '\\0' '\\n' < /proc/$p/environ; done"
    )


def test_reload_keeps_user_endpoints(machine: Machine) -> None:
    (before,) = machine.ueps()
    master = machine.master()
    machine.shell(
        "sed -i 's/^display_name:.*/display_name: changed/' ~/.globus_compute/gpu/config.yaml"
        " && systemctl reload mepd"
    )
    wait_for(lambda: "config.yaml: display_name" in machine.log_text(), 20, "the change")
    wait_for(lambda: machine.show("ActiveState") == "active", 20)
    assert (machine.master(), machine.ueps()[0]["pid"]) == (master, before["pid"])


def test_the_next_boot(machine: Machine) -> None:
    """With the log in the journal as well, by both ways there."""
    machine.shell("sed -i 's/^;log_to = file/log_to = file, journald, syslog/' /etc/mepd/mepd.conf")
    machine.reboot()
    assert machine.show("ActiveState") == "active" and machine.is_online()
    assert machine.first_result(quick_start()[7:]).endswith("hello from harper\n")
    name = machine.ueps()[0]["name"]
    story = machine.run("journalctl", "--output=cat", f"MEPD_UEP={name}", "MEPD_USER=harper")
    assert "User endpoint is ready" in story and "forked for 'harper'" in story
    by_syslog = machine.run("journalctl", "_TRANSPORT=syslog", "--identifier=mepd")
    assert "forked for 'harper'" in by_syslog and name in by_syslog


def test_each_uep_has_its_session(machine: Machine) -> None:
    """With PAM and pam_systemd; the session ends with the user endpoint."""
    machine.shell(
        f"sed 's/^#session  optional   pam_systemd/session optional pam_systemd/' {PAM}"
        " > /etc/pam.d/globus-compute-endpoint;"
        "echo 'pam: {enable: true}' >> ~/.globus_compute/gpu/config.yaml;"
        "mepctl kill --all --now"
    )
    wait_for(lambda: "config.yaml: pam" in machine.log_text(), 20, "the change")
    wait_for(lambda: not machine.ueps(), 20)
    assert machine.first_result(quick_start()[7:]).endswith("hello from harper\n")
    (uep,) = machine.ueps()
    sessions = machine.run("loginctl", "list-sessions", "--no-legend").split("\n")
    (session,) = [line.split()[0] for line in sessions if "harper" in line]
    shown = machine.run("loginctl", "show-session", session)
    assert "Name=harper" in shown and "Service=globus-compute-endpoint" in shown
    cgroup = machine.run("cat", f"/proc/{uep['pid']}/cgroup")
    assert f"session-{session}.scope" in cgroup
    machine.run("mepctl", "kill", "--all")
    wait_for(
        lambda: "harper" not in machine.run("loginctl", "list-sessions", "--no-legend"), 20,
        "the end of the session",
    )  # fmt: skip


def below(machine: Machine) -> set[int]:
    """What belongs to mepd: its service's processes, and harper's."""
    said = machine.shell(
        "cat /sys/fs/cgroup/*/system.slice/mepd.service/cgroup.procs"
        " /sys/fs/cgroup/system.slice/mepd.service/cgroup.procs 2>/dev/null;"
        " pgrep -u harper -f mepd-uep || true"
    )
    return set(map(int, said.split()))


def test_a_master_that_is_well_is_left_alone(machine: Machine) -> None:
    """All that went before took longer than the watchdog is patient."""
    uptime = machine.status()["master"]["uptime"]
    time.sleep(max(0.0, 7.0 - uptime))
    assert machine.show("NRestarts") == "0"


def restarted_after(machine: Machine, what: str) -> str:
    """Do something to the master; what systemd says of the restart."""
    first, family = machine.master(), below(machine)
    assert first in family
    count = int(machine.show("NRestarts"))
    machine.shell(f"kill -{what} {first}")
    wait_for(lambda: int(machine.show("NRestarts")) == count + 1, 120, "the restart")
    wait_for(lambda: machine.show("ActiveState") == "active", 60, "readiness")
    assert machine.is_online() and machine.master() not in family
    assert not family & below(machine)
    return machine.run("journalctl", "--no-pager", "--unit=mepd", "--lines=400", "_PID=1")


def test_a_killed_master_is_started_again(machine: Machine) -> None:
    machine.first_result(quick_start()[7:])
    assert machine.ueps()
    assert "code=killed, status=9/KILL" in restarted_after(machine, "KILL")


def test_a_hung_master_is_started_again_by_the_watchdog(machine: Machine) -> None:
    assert machine.show("WatchdogUSec") == "6s"
    machine.first_result(quick_start()[7:])
    assert "watchdog" in restarted_after(machine, "STOP").lower()


def test_stop_leaves_nothing(machine: Machine) -> None:
    machine.first_result(quick_start()[7:])
    family = below(machine)
    assert len(family) > 5
    machine.run("systemctl", "stop", "mepd")
    assert machine.show("Result") == "success"
    assert not family & below(machine)
    assert machine.shell("pgrep -fa '^[m]epd|[m]epd-gateway|[b]eam.smp|[e]pmd' || true") == ""
    assert machine.shell("ls /run/mepd 2>&1 || true").startswith("ls: cannot access")
    assert "mepd stopped" in machine.log_text()


def test_no_unit_is_unhappy(machine: Machine) -> None:
    assert "mepd" not in machine.run("systemctl", "--failed", "--no-legend")
    said = machine.run("systemd-analyze", "verify", "--man=no", "mepd.service", check=False)
    assert "mepd.service:" not in said
    assert machine.run("mepctl", "disable-on-boot")
    assert machine.show("LoadState") == "not-found"
