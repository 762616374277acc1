"""mepctl's commands that end and steer, against a running mepd: as root and as an ordinary
user, on a terminal and piped."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
from mepctl_site import MEPCTL, Site

from mepd.ctl import client
from mepd.wire import control
from mepd.wire.framing import FrameReader, encode_frame
from tests.conftest import User, is_gone, wait_for


@pytest.fixture(autouse=True)
def clean(site: Site) -> Iterator[None]:
    yield
    site.clear()


class TestKill:
    def test_by_prefix_pid_and_name(self, site: Site) -> None:
        for key, cut in (("id", 13), ("pid", 99), ("name", 99)):
            mine = site.uep(site.harper)
            done = site.ctl("kill", str(mine[key])[:cut])
            assert done.returncode == 0, done.stderr
            assert done.stdout == (
                f"{mine['id']}: signalled TERM (pid {mine['pid']}, {site.harper.name})\n"
            )
            wait_for(lambda pid=mine["pid"]: is_gone(pid), 20, "its end")  # type: ignore[misc]

    def test_c1_only_ones_own(self, site: Site) -> None:
        mine, other = site.uep(site.harper), site.uep(site.jessie)
        for target in (other["id"], other["id"][:4], str(other["pid"]), other["name"]):
            refused = site.ctl("kill", target, "--now", user=site.harper)
            assert refused.returncode == os.EX_UNAVAILABLE
            assert "no user endpoint matches" in refused.stderr
        nothing = site.ctl("kill", "--user", site.jessie.name, user=site.harper)
        assert (nothing.returncode, nothing.stderr) == (0, "no user endpoint to end\n")
        done = site.json("kill", "--all", "--now", user=site.harper)
        assert [k["id"] for k in done["killed"]] == [mine["id"]]
        wait_for(lambda: site.ids() == {other["id"]}, 20, "the end of one's own")
        assert site.running(other["id"])
        by_group = site.ctl("kill", other["id"], user=site.admin)
        assert by_group.returncode == 0, by_group.stderr

    def test_ambiguous_piped_names_the_candidates(self, site: Site) -> None:
        one, two = site.uep(site.harper), site.uep(site.jessie)
        done = site.ctl("kill", "uep.")
        assert done.returncode == os.EX_USAGE and done.stderr.count("\n") == 1
        for u in (one, two):
            assert f"{u['id']} ({u['user']}, pid {u['pid']})" in done.stderr
        assert site.ids() == {one["id"], two["id"]}
        # What is not the caller's is no candidate, and is not named.
        assert site.ctl("kill", "uep.", user=site.harper).returncode == 0
        assert len(site.json("kill", "uep.", "--yes")["killed"]) >= 1

    def test_ambiguous_on_a_terminal_asks(self, site: Site) -> None:
        both = {site.uep(site.harper)["id"], site.uep(site.jessie)["id"]}
        code, shown = site.terminal("kill", "uep.", typed="n\n")
        assert code == os.EX_USAGE and "End 2 user endpoints? [y/N]" in shown
        assert site.ids() == both
        code, shown = site.terminal("kill", "uep.", "--now", typed="y\n")
        assert code == 0 and shown.count("signalled KILL") == 2
        wait_for(lambda: not site.ids(), 20, "their end")

    def test_one_is_not_asked_for(self, site: Site) -> None:
        site.uep(site.harper)
        code, shown = site.terminal("kill", "--all", user=site.harper)
        assert code == 0 and "[y/N]" not in shown and "signalled TERM" in shown

    def test_now_kills_the_whole_tree(self, site: Site) -> None:
        mine = site.uep(site.harper, "family")
        path = f"/proc/{mine['pid']}/task/{mine['pid']}/children"

        def child() -> int:
            with open(path) as f:
                return int(f.read().split()[0])

        pid = wait_for(lambda: contextlib.suppress(IndexError) and child(), 10, "its child")
        site.ctl("kill", mine["id"], "--now")
        wait_for(lambda: is_gone(mine["pid"]) and is_gone(pid), 20, "the end of the tree")

    def test_other_signals(self, site: Site) -> None:
        mine = site.uep(site.harper)
        for name in ("STOP", "SIGCONT", "cont", "18"):
            assert site.ctl("kill", mine["id"], "--signal", name).returncode == 0, name
        assert site.running(mine["id"])
        wrong = site.ctl("kill", mine["id"], "--signal", "SEGV")
        assert wrong.returncode == os.EX_USAGE and "known are TERM, INT" in wrong.stderr
        site.ctl("kill", mine["id"], "--signal", "9")
        wait_for(lambda: is_gone(mine["pid"]), 20, "its end")
        done = site.ctl("kill", "--all", mine["id"])
        assert done.returncode == os.EX_USAGE
        assert site.ctl("kill").returncode == os.EX_USAGE


class TestReap:
    def test_what_is_idle_and_whose(self, site: Site) -> None:
        busy, idle = site.uep(site.jessie), site.uep(site.harper, "idle")

        def said(*words: str, user: User | None = None) -> list[str]:
            return [r["id"] for r in site.json("reap", *words, user=user)["reaped"]]

        wait_for(lambda: said("--dry-run", "--idle", "0.5") == [idle["id"]], 10, "idleness")
        assert said("--idle", "0.5", "--user", site.jessie.name) == []
        assert said("--idle", "0", user=site.jessie) == []
        assert said("--dry-run", "--idle", "3600") == []
        assert site.ids() == {busy["id"], idle["id"]}
        shown = site.ctl("reap", "--idle", "0.5", user=site.harper).stdout
        assert idle["id"][:8] in shown and "idle for" in shown
        wait_for(lambda: site.ids() == {busy["id"]}, 20, "the idle one's end")
        events = [e for e in site.json("events")["events"] if e["id"] == idle["id"]]
        assert "reaped" in [e["event"] for e in events]
        assert site.ctl("reap").stderr == "no user endpoint to reap\n"


RESTRICTED = (
    ("drain", "gpu"), ("stop", "gpu"), ("start", "gpu"), ("restart", "gpu"), ("stop", "napper"),
    ("reload",), ("reload", "--dry-run"), ("shutdown",),
)  # fmt: skip


@pytest.mark.parametrize("words", RESTRICTED)
def test_c1_steering_is_for_administrators(site: Site, words: tuple[str, ...]) -> None:
    done = site.ctl(*words, user=site.harper)
    assert done.returncode == os.EX_NOPERM and done.stdout == ""
    assert done.stderr == (
        f"mepctl: {words[0]}: only root and the group of [control] chown may;"
        f" uid {site.harper.uid} is not of them\n"
    )
    assert site.endpoint()["state"] == "online"


class TestEndpoints:
    def test_drain_start(self, site: Site) -> None:
        mine = site.uep(site.harper)
        assert site.ctl("drain", "gpu", user=site.admin).stdout == "endpoint gpu: draining\n"
        assert site.ctl("status", "gpu").returncode == 3
        assert site.running(mine["id"]), "what runs goes on"
        ident = site.ask(site.harper.name)
        assert site.ctl("reload").returncode == 0
        assert site.endpoint()["state"] == "draining"
        site.ctl("kill", mine["id"], "--now")
        wait_for(lambda: site.endpoint()["state"] == "stopped", 20, "the endpoint's end")
        assert ident not in site.ids()
        assert site.ctl("reload").returncode == 0
        assert site.endpoint()["state"] == "stopped", "a reload does not start it"
        old = site.config_yaml.read_text()
        site.config_yaml.write_text(old + "display_name: changed\n")
        assert site.ctl("reload").returncode == 0
        assert site.endpoint()["state"] == "stopped", "neither does a change"
        site.config_yaml.write_text(old)
        done = site.ctl("start", "gpu")
        assert done.stdout == "endpoint gpu is served; see mepctl status\n"
        wait_for(lambda: site.running(ident), 30, "the request that waited")
        again = site.ctl("start", "gpu")
        assert again.returncode == os.EX_UNAVAILABLE and "is served already" in again.stderr

    def test_stop_and_restart_end_the_user_endpoints(self, site: Site) -> None:
        mine = site.uep(site.harper)
        code, shown = site.terminal("stop", "gpu")
        assert code == 0 and shown == "endpoint gpu: stopped\n"
        assert is_gone(mine["pid"]) and not site.ids()
        assert site.ctl("start", "endpoint:gpu", user=site.admin).returncode == 0
        wait_for(lambda: site.endpoint()["state"] == "online", 30)
        mine = site.uep(site.harper)
        done = site.json("restart", "gpu")["done"]
        assert [d["kind"] for d in done] == ["endpoint"] and is_gone(mine["pid"])
        wait_for(lambda: site.endpoint()["state"] == "online", 30)
        assert site.uep(site.harper)

    def test_names_that_are_none(self, site: Site) -> None:
        for verb in ("drain", "stop", "restart"):
            done = site.ctl(verb, "nosuch")
            assert done.returncode == os.EX_UNAVAILABLE and done.stderr.count("\n") == 1
        assert site.ctl("start", "nosuch").returncode == os.EX_CONFIG
        assert site.ctl("stop").returncode == os.EX_USAGE


class TestPrograms:
    def test_stop_start_restart(self, site: Site) -> None:
        def pid() -> Any:
            (found,) = [p for p in site.json("status")["programs"] if p["name"] == "napper"]
            return found["pid"]

        first = pid()
        assert site.ctl("stop", "napper").stdout == "program napper: STOPPED\n"
        assert is_gone(first) and site.ctl("status", "napper").returncode == 3
        assert site.ctl("start", "program:napper", user=site.admin).stdout == (
            "program napper: RUNNING\n"
        )
        second = pid()
        again = site.ctl("start", "napper")
        assert again.returncode == os.EX_UNAVAILABLE and "is RUNNING" in again.stderr
        assert site.json("restart", "napper")["done"][0]["state"] == "RUNNING"
        assert pid() not in (first, second) and is_gone(second)
        assert site.ctl("drain", "napper").returncode == os.EX_USAGE

    def test_one_that_does_not_start(self, site: Site) -> None:
        done = site.ctl("start", "broken")
        assert done.returncode == os.EX_UNAVAILABLE and done.stderr.count("\n") == 1
        assert "program broken does not start: Command return code: 1" in done.stderr


class TestReload:
    def test_what_would_change_and_what_does(self, site: Site) -> None:
        old = site.config_yaml.read_text()
        assert site.ctl("reload", "--dry-run").stdout == "nothing changed\n"
        extra = site.folder / "conf.d/x.conf"
        extra.write_text("[program:more]\ncommand = /bin/sleep 600\nautostart = false\n")
        # A change that mepd is told of, and may have taken over by itself before.
        assert site.ctl("reload").returncode == 0
        wait_for(lambda: site.ctl("status", "more").returncode == 3, 10, "the program")
        extra.unlink()
        site.config_yaml.write_text(old)
        assert site.ctl("reload").returncode == 0

    def test_what_is_wrong_is_said_and_78(self, site: Site) -> None:
        old = site.conf.read_text()
        try:
            site.conf.write_text(old.replace("stopwaitsecs = 2", "stopwaitsec = 2"))
            for words in (("reload", "--dry-run"), ("reload",)):
                done = site.ctl(*words)
                assert done.returncode == os.EX_CONFIG
                assert f"mepctl: mepd.conf: {site.conf}:5: unknown key 'stopwaitsec'" in done.stderr
        finally:
            site.conf.write_text(old)
        yaml = site.config_yaml.read_text()
        try:
            site.config_yaml.write_text(yaml + "nosuchkey: 1\n")
            for words in (("reload", "--dry-run"), ("reload",)):
                done = site.ctl(*words)
                assert done.returncode == os.EX_CONFIG, done.stdout
                assert "mepctl: gpu: " in done.stderr and "nosuchkey: unknown key" in done.stderr
                assert done.stderr.count("\n") == 1
        finally:
            site.config_yaml.write_text(yaml)
        assert site.ctl("reload").returncode == 0
        assert site.uep(site.harper)

    def test_the_dry_run_changes_nothing(self, site: Site) -> None:
        """Made in one breath with the question: the watcher has not told yet, or just has."""
        old = site.conf.read_text()
        try:
            site.conf.write_text(old.replace("[service]", "chmod = 0600\n[service]"))
            data = site.json("reload", "--dry-run")
            assert data["waiting"] == "[control] chmod"
        finally:
            site.conf.write_text(old)
        assert site.ctl("list", user=site.harper).returncode == 0


# --- C2: clients that stall or flood --------------------------------------------------------
HOLD = """
import socket, struct, sys, time
path, kind, count = sys.argv[1], sys.argv[2], int(sys.argv[3])
held, refused = [], 0
for n in range(count):
    s = socket.socket(socket.AF_UNIX)
    s.settimeout(20)
    try:
        s.connect(path)
        s.sendall({"half": b"\\0\\0\\0", "huge": struct.pack(">I", 0xffffffff) + b"x",
                   "body": struct.pack(">I", 1000) + b"{"}[kind])
    except OSError:
        refused += 1
    held.append(s)
print("held", flush=True)
sys.stdin.read()
"""


def hold(site: Site, kind: str, count: int) -> subprocess.Popen[str]:
    child = subprocess.Popen(
        [sys.executable, "-I", "-c", HOLD, site.socket, kind, str(count)], cwd="/", text=True,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, user=site.jessie.uid,
        group=site.jessie.gid, extra_groups=[],
    )  # fmt: skip
    assert child.stdout is not None and child.stdout.readline() == "held\n"
    return child


@pytest.mark.parametrize("kind", ["half", "huge", "body"])
def test_c2_a_thousand_that_stall_hold_up_nobody(site: Site, kind: str) -> None:
    stalled = hold(site, kind, 1000)
    try:
        begun = time.monotonic()
        assert site.json("list", user=site.harper) == {"ueps": []}
        assert site.uep(site.harper), "starts go on"
        assert time.monotonic() - begun < 10
        if kind != "huge":  # those are closed at once
            refused = site.ctl("list", user=site.jessie)
            assert refused.returncode == os.EX_TEMPFAIL and refused.stderr.count("\n") == 1
            assert f"too many connections of uid {site.jessie.uid} (at most 8)" in refused.stderr
    finally:
        stalled.communicate()
    wait_for(lambda: site.ctl("list", user=site.jessie).returncode == 0, 20, "room again")


FLOOD = """
import socket, struct, sys, json, time
body = json.dumps({"v": 1, "verb": "status", "args": {}}).encode()
frame = struct.pack(">I", len(body)) + body
end, asked = time.monotonic() + 4, 0
while time.monotonic() < end:
    s = socket.socket(socket.AF_UNIX)
    try:
        s.connect(sys.argv[1])
        s.sendall(frame * 50)
        asked += 1
    except OSError:
        pass
    s.close()
print(asked)
"""


def test_c2_a_flood_holds_up_nobody(site: Site) -> None:
    flood = subprocess.Popen(
        [sys.executable, "-I", "-c", FLOOD, site.socket], cwd="/", text=True,
        stdout=subprocess.PIPE, user=site.jessie.uid, group=site.jessie.gid, extra_groups=[],
    )  # fmt: skip
    slowest = 0.0
    while flood.poll() is None:
        begun = time.monotonic()
        assert client.call(site.socket, "status")
        slowest = max(slowest, time.monotonic() - begun)
        time.sleep(0.02)
    assert flood.stdout is not None and int(flood.stdout.read()) > 100
    assert slowest < 2.0
    assert site.uep(site.harper)


def test_c2_who_does_not_read_a_stream_is_left(site: Site) -> None:
    with socket.socket(socket.AF_UNIX) as deaf:
        deaf.connect(str(site.socket))
        deaf.sendall(encode_frame(control.request("events", {"follow": True})))
        mine = site.uep(site.harper)
        for _ in range(3):
            site.ctl("kill", mine["id"], "--signal", "CONT")
        assert client.call(site.socket, "version")
        reader = FrameReader()
        (first,) = list(reader.feed(deaf.recv(1 << 20)))[:1]
        assert first["ok"] and "events" in first["data"]


def test_c2_requests_beyond_the_first_get_no_answer(site: Site) -> None:
    with socket.socket(socket.AF_UNIX) as twice:
        twice.settimeout(10)
        twice.connect(str(site.socket))
        twice.sendall(encode_frame(control.request("version", {})) * 2)
        data = b""
        with contextlib.suppress(ConnectionResetError):
            while chunk := twice.recv(65536):
                data += chunk
        assert len(list(FrameReader().feed(data))) == 1


# --- C5 -------------------------------------------------------------------------------------
def test_c5_a_second_instance_is_73_and_changes_nothing(site: Site) -> None:
    before = site.socket.stat().st_ino
    second = subprocess.run(
        [MEPCTL.with_name("mepd"), "-n", "-c", site.conf], capture_output=True, text=True,
        cwd="/", timeout=60,
    )  # fmt: skip
    assert second.returncode == os.EX_CANTCREAT and "already running (pid " in second.stderr
    assert site.socket.stat().st_ino == before
    assert site.ctl("status").returncode == 0


def test_c5_restart_after_sigkill(site: Site) -> None:
    """What a killed mepd left, socket and pidfile, is taken over."""
    assert site.process is not None
    mine = site.uep(site.harper)
    site.process.kill()
    site.process.wait()
    assert site.socket.exists() and (site.folder / "mepd.pid").exists()
    stale = site.ctl("status")
    assert stale.returncode == 3 and "mepd is not running" in stale.stderr
    wait_for(lambda: is_gone(mine["pid"]), 20, "the orphan's end")
    begun = time.monotonic()
    answered: list[float] = []

    def look() -> None:
        while not answered and time.monotonic() - begun < 20:
            with contextlib.suppress(Exception):
                client.call(site.socket, "version")
                answered.append(time.monotonic() - begun)

    looker = threading.Thread(target=look)
    looker.start()
    site.begin()
    looker.join()
    assert answered and answered[0] < 5  # 1 s where nothing else runs
    assert site.uep(site.harper)


def test_shutdown(site: Site) -> None:
    mine = site.uep(site.harper)
    assert site.process is not None
    done = site.ctl("shutdown", user=site.admin)
    assert (done.returncode, done.stdout) == (0, "")
    assert site.process.wait(20) == 0 and is_gone(mine["pid"])
    assert not site.socket.exists()
    assert site.ctl("list").returncode == os.EX_UNAVAILABLE
    site.begin()
