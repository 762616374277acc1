"""mepctl's commands that look, against a running mepd: as root and as an ordinary user, on
a terminal and piped."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from mepctl_site import MEPCTL, Site

from tests.conftest import User, require, wait_for


@pytest.fixture(autouse=True)
def clean(site: Site) -> Iterator[None]:
    yield
    site.clear()


def log_of(user: User, uep: dict[str, Any]) -> Path:
    return Path(user.home) / ".globus_compute" / uep["name"] / "endpoint.log"


class TestStatus:
    def test_as_root(self, site: Site) -> None:
        site.uep(site.harper)
        data = site.json("status")
        (gpu,) = data["endpoints"]
        assert gpu["id"] == site.service.endpoint_id and gpu["online"] and gpu["connected"]
        assert gpu["ueps"] == 1 and gpu["starts"] >= 1 and gpu["files"]
        assert data["master"]["files"][0]["path"] == str(site.conf)
        shown = site.ctl("status").stdout
        assert "ENDPOINT  ID" in shown and "amqp-consumer" in shown and "\x1b" not in shown
        code, shown = site.terminal("status")
        assert code == 0 and "\x1b[32mRUNNING" in shown and "\x1b[32monline" in shown

    def test_as_an_ordinary_user(self, site: Site) -> None:
        data = site.json("status", user=site.harper)
        assert data["master"]["files"] == [] and data["endpoints"][0]["files"] == []
        code, shown = site.terminal("status", user=site.harper)
        assert code == 0 and "program:napper" in shown and "mepd.conf" not in shown

    @pytest.mark.parametrize(
        ("name", "code"),
        [("gpu", 0), ("endpoint:gpu", 0), ("napper", 0), ("program:napper", 0), ("master", 0),
         ("config-watcher", 0), ("broken", 3), ("nosuch", 4)],
    )  # fmt: skip
    def test_one_name_and_the_codes_of_lsb(self, site: Site, name: str, code: int) -> None:
        for user in (None, site.harper):
            done = site.ctl("status", name, "--no-header", user=user)
            assert done.returncode == code, done.stderr
            assert (name.rpartition(":")[2] in done.stdout) is (code != 4)
            assert ("nothing is called 'nosuch'" in done.stderr) is (code == 4)


class TestList:
    def test_others_see_only_their_own(self, site: Site) -> None:
        """C1"""
        mine, other = site.uep(site.harper), site.uep(site.jessie, "family")
        both = {mine["id"], other["id"]}
        assert {u["id"] for u in site.json("list")["ueps"]} == both
        assert {u["id"] for u in site.json("list", user=site.admin)["ueps"]} == both
        assert {u["id"] for u in site.json("list", user=site.harper)["ueps"]} == {mine["id"]}
        assert mine["id"][:8] not in site.ctl("list", user=site.jessie).stdout
        assert site.json("list", "--user", site.jessie.name, user=site.harper)["ueps"] == []
        code, shown = site.terminal("list", user=site.harper)
        assert code == 0 and mine["id"][:8] in shown and other["id"][:8] not in shown

    def test_what_the_whole_tree_uses(self, site: Site) -> None:
        site.uep(site.jessie, "family")

        def big() -> bool:
            return bool(site.json("list", user=site.jessie)["ueps"][0]["rss"] > 64 << 20)

        wait_for(big, 20, "the child's memory")
        (u,) = site.json("list")["ueps"]
        assert u["rss"] > 64 << 20 and u["cpu"] is not None
        assert (u["running"], u["done"], u["state"]) == (1, 1, "RUNNING")

    def test_filters_and_order(self, site: Site) -> None:
        mine, other = site.uep(site.harper), site.uep(site.jessie)
        names = sorted([site.harper.name, site.jessie.name])

        def users(*words: str) -> list[str]:
            lines = site.ctl("list", "--no-header", *words).stdout.splitlines()
            return [line.split()[0] for line in lines]

        assert users("--user", site.harper.name) == [site.harper.name]
        assert users("--user", str(site.harper.uid)) == [site.harper.name]
        assert users("--endpoint", "gpu") == users() == names
        assert users("--endpoint", "none") == users("--state", "STOPPING") == []
        assert users("--state", "running,starting") == names
        assert users("--sort", "user") == names and users("--sort", "-user") == names[::-1]
        by_pid = sorted([mine, other], key=lambda u: u["pid"])
        assert users("--sort", "pid") == [u["user"] for u in by_pid]
        wrong = site.ctl("list", "--sort", "colour")
        assert wrong.returncode == os.EX_USAGE and "known are user, id" in wrong.stderr
        assert site.ctl("list", "--state", "GONE").returncode == os.EX_USAGE

    def test_the_last_failure(self, site: Site) -> None:
        ident = site.ask(site.harper.name, "fail")
        wait_for(lambda: any(f["id"] == ident for f in site.json("events")["events"]
                             if f["event"] == "died"), 20)  # fmt: skip
        site.service.publish(_again(site, ident))
        wait_for(lambda: site.running(ident), 20)
        (u,) = site.json("list", user=site.harper)["ueps"]
        assert u["failure"]["stage"] == "RUN" and u["failure"]["code"] == 3
        assert " RUN 0:" in site.ctl("list").stdout

    def test_watch_on_a_terminal_of_tmux(self, site: Site) -> None:
        require(shutil.which("tmux") is not None, "tmux")
        mine = site.uep(site.harper)
        socket = site.folder / "tmux"
        tmux = ["tmux", "-f", "/dev/null", "-S", str(socket)]
        env = {"PATH": os.environ["PATH"], "LANG": "C.UTF-8", "HOME": "/root"}
        command = shlex.join([str(MEPCTL), "-s", str(site.socket), "list", "--watch", "0.3"])

        def run(*words: str) -> str:
            done = subprocess.run([*tmux, *words], env=env, capture_output=True, text=True)
            return done.stdout

        run("new-session", "-d", "-x", "140", "-y", "20", command)
        try:
            wait_for(lambda: mine["id"][:8] in run("capture-pane", "-p"), 20, "the list")
            site.ctl("kill", mine["id"], "--now")
            wait_for(lambda: mine["id"][:8] not in run("capture-pane", "-p"), 20, "the change")
            assert run("capture-pane", "-p").count("USER") == 1
            run("send-keys", "C-c")
            wait_for(lambda: not run("list-sessions"), 20, "its end")
        finally:
            run("kill-server")

    def test_watch_piped_is_one_object_a_line(self, site: Site) -> None:
        words = [MEPCTL, "-s", site.socket, "list", "--watch", "0.2", "--json"]
        with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as child:
            assert child.stdout is not None
            assert [json.loads(child.stdout.readline()) for _ in range(2)] == [{"ueps": []}] * 2
            child.send_signal(signal.SIGINT)
            assert child.wait(20) == 0

    def test_c4_titles_leave_the_list_intact(self, site: Site) -> None:
        tricky, plain = site.uep(site.harper, "title"), site.uep(site.jessie)
        stat_line = f"/proc/{tricky['pid']}/stat"
        wait_for(lambda: "x) R 1 1" in Path(stat_line).read_text(), 20, "its name")
        rows = {u["id"]: u for u in site.json("list")["ueps"]}
        assert rows.keys() == {tricky["id"], plain["id"]}
        assert all(u["rss"] > 1 << 20 and u["cpu"] is not None for u in rows.values())
        lines = site.ctl("list", "--no-header").stdout.splitlines()
        assert len(lines) == 2 and "root 1 RUNNING" not in "".join(lines)
        for words in (("show", tricky["id"]), ("list",)):
            code, shown = site.terminal(*words)
            assert code == 0 and "\x1b[31mroot" not in shown
        lines = site.ctl("show", tricky["id"]).stdout.split("\n")
        assert not any(line.startswith("root 1") for line in lines)


def _again(site: Site, ident: str) -> dict[str, Any]:
    """A start request for the same user endpoint, with other options."""
    body = site.service.request(ident)
    name = f"{site.harper.name}@example.com"
    body["kwargs"]["user_opts"] = {"mode": "busy"}
    body["globus_username"] = name
    body["globus_identity_set"][0].update(username=name, status="used")
    return body


class TestShow:
    def test_everything_known(self, site: Site) -> None:
        mine = site.uep(site.harper, "family")
        for target in (mine["id"], mine["id"][:6], str(mine["pid"]), mine["name"]):
            data = site.json("show", target)
            assert data["id"] == mine["id"]
        assert data["username"] == f"{site.harper.name}@example.com"
        assert data["options"] == ["mode"] and data["endpoint_id"] == site.service.endpoint_id
        assert [e["event"] for e in data["events"]] == ["started", "ready"]
        wait_for(lambda: len(site.json("show", mine["id"])["processes"]) == 2, 10)
        assert data["processes"][0]["pid"] == mine["pid"]
        assert "canary" not in json.dumps(data) and "amqp" not in json.dumps(data["events"])
        shown = site.ctl("show", mine["id"], user=site.harper).stdout
        assert "heartbeat period" in shown and "PPID" in shown and "started" in shown

    def test_not_anothers(self, site: Site) -> None:
        mine = site.uep(site.harper)
        for target in (mine["id"], str(mine["pid"]), mine["name"]):
            done = site.ctl("show", target, user=site.jessie)
            assert done.returncode == os.EX_UNAVAILABLE and done.stdout == ""

    def test_ambiguous(self, site: Site) -> None:
        one, two = site.uep(site.harper), site.uep(site.jessie)
        done = site.ctl("show", "uep.")
        assert done.returncode == os.EX_USAGE and done.stderr.count("\n") == 1
        assert one["id"] in done.stderr and two["id"] in done.stderr
        assert site.ctl("show", "uep.", user=site.jessie).returncode == 0


class TestEvents:
    def test_as_a_stream(self, site: Site) -> None:
        """Started, ready, signalled, ended: each as it happens, to whom it concerns."""
        words = ["events", "-f", "-n", "0", "--json"]
        command = [MEPCTL, "-s", site.socket, *words]
        streams = []
        for user in (None, site.harper, site.jessie):
            who: dict[str, Any] = {} if user is None else {
                "user": user.uid, "group": user.gid, "extra_groups": []
            }  # fmt: skip
            stream = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd="/", **who)
            streams.append(stream)
        try:
            time.sleep(1.0)  # they listen by now, or the test only waits for longer
            mine = site.uep(site.harper)
            site.ctl("kill", mine["id"])
            for stream in streams[:2]:
                assert stream.stdout is not None
                seen = [json.loads(stream.stdout.readline()) for _ in range(4)]
                kinds = [e["event"] for e in seen if e["id"] == mine["id"]]
                assert kinds == ["started", "ready", "signalled", "died"], seen
            theirs = site.uep(site.jessie)
            last = streams[2]
            assert last.stdout is not None
            assert json.loads(last.stdout.readline())["id"] == theirs["id"]
        finally:
            for stream in streams:
                stream.send_signal(signal.SIGINT)
                assert stream.wait(20) == 0
                assert stream.stdout is not None
                stream.stdout.close()

    def test_as_a_table(self, site: Site) -> None:
        mine = site.uep(site.harper)
        for user in (None, site.harper):
            lines = site.ctl("events", "-n", "2", user=user).stdout.splitlines()
            assert lines[0].split() == ["TIME", "EVENT", "ENDPOINT", "USER", "ID", "PID", "DETAIL"]
            assert [line.split()[2] for line in lines[1:]] == ["started", "ready"]
        assert mine["id"][:8] not in site.ctl("events", user=site.jessie).stdout

    def test_failures_with_stage_and_reason(self, site: Site) -> None:
        """A user is told what the user was told; the site's business is the site's."""
        nobody = site.ask("nosuchperson")
        reserved = site.service.request()
        name = f"{site.harper.name}@example.com"
        reserved["kwargs"]["user_opts"] = {"parent_config": 1}
        reserved["globus_username"] = name
        reserved["globus_identity_set"][0].update(username=name, status="used")
        site.service.publish(reserved)

        def both() -> Any:
            found = {f["id"]: f for f in site.json("failures")["failures"]}
            mine = reserved["kwargs"]["amqp_creds"]["endpoint_id"]
            return mine in found and nobody in found and (found[mine], found[nobody])

        template, prepare = wait_for(both, 30, "two failures")
        assert (template["stage"], template["code"]) == ("TEMPLATE", 77)
        assert "'parent_config' is a reserved word" in template["reason"]
        assert template["user"] == site.harper.name
        assert (prepare["stage"], prepare["user"]) == ("PREPARE", "")
        assert "local user does not exist" in prepare["reason"]
        seen = site.json("failures", user=site.harper)["failures"]
        assert template["id"] in [f["id"] for f in seen]
        assert nobody not in [f["id"] for f in seen]
        code, shown = site.terminal("failures", "-n", "5")
        assert code == 0 and "TEMPLATE" in shown
        assert "TEMPLATE" not in site.ctl("failures", user=site.jessie).stdout


class TestTail:
    def test_the_masters_log(self, site: Site) -> None:
        done = site.ctl("tail", "-n", "3")
        assert done.returncode == 0 and len(done.stdout.splitlines()) == 3
        assert done.stdout.splitlines()[-1] in site.log()
        assert site.ctl("tail", "master", "-n", "1", "--json").stdout.startswith('{"line": "')

    def test_a_users_log_as_that_user(self, site: Site) -> None:
        mine = site.uep(site.harper)
        for user in (None, site.harper):
            for target in (mine["id"], str(mine["pid"]), mine["name"]):
                done = site.ctl("tail", target, user=user)
                assert done.returncode == 0, done.stderr
                assert done.stdout == f"first line of {site.harper.uid} \\x1b[31mred\n"
        assert site.ctl("tail", mine["id"], user=site.jessie).returncode == os.EX_UNAVAILABLE
        refused = site.ctl("tail", mine["id"], user=site.admin)
        assert refused.returncode == os.EX_NOPERM and "only root and" in refused.stderr

    def test_of_one_that_has_ended(self, site: Site) -> None:
        mine = site.uep(site.harper)
        site.clear()
        assert "first line" in site.ctl("tail", mine["id"][:10]).stdout
        assert site.ctl("tail", mine["id"], user=site.jessie).returncode == os.EX_UNAVAILABLE

    def test_follow_through_a_rotation(self, site: Site) -> None:
        mine = site.uep(site.harper)
        log = log_of(site.harper, mine)
        words = [MEPCTL, "-s", site.socket, "tail", "-f", mine["id"]]
        with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as child:
            assert child.stdout is not None
            assert child.stdout.readline().startswith("first line")
            (reader,) = [int(p) for p in _children(child.pid)]
            status = Path(f"/proc/{reader}/status").read_text()
            assert f"Uid:\t{site.harper.uid}\t" in status and "CapEff:\t0000000000000000" in status
            with log.open("a") as f:
                f.write("second\n")
            assert child.stdout.readline() == "second\n"
            log.rename(log.with_suffix(".1"))
            log.write_text("third\n")
            os.chown(log, site.harper.uid, site.harper.gid)
            assert child.stdout.readline() == "third\n"
            child.send_signal(signal.SIGINT)
            os.kill(reader, signal.SIGINT)
            assert child.wait(20) == 0

    @pytest.mark.parametrize("what", ["link", "fifo", "folder", "secret"])
    def test_t14_what_is_no_plain_file_is_not_read(self, site: Site, what: str) -> None:
        """Root opens nothing in a user's folder: a link leads where the user may read."""
        mine = site.uep(site.harper)
        log = log_of(site.harper, mine)
        log.unlink()
        secret = site.folder / "secret"
        secret.write_text("canary\n")
        secret.chmod(0o600)
        if what == "link":
            log.symlink_to(secret)
        elif what == "fifo":
            os.mkfifo(log, 0o666)
        elif what == "folder":
            log.mkdir()
        else:
            os.link(secret, log)
        done = site.ctl("tail", mine["id"])
        assert done.returncode in (os.EX_NOPERM, os.EX_NOINPUT), done.stdout
        assert "canary" not in done.stdout and done.stderr.count("\n") == 1
        secret.unlink()


def _children(pid: int) -> list[str]:
    return Path(f"/proc/{pid}/task/{pid}/children").read_text().split()


class TestWho:
    def test_whoami(self, site: Site) -> None:
        root = site.json("whoami")
        assert root["user"] == "root" and root["administrator"] is True
        harper = site.json("whoami", user=site.harper)
        assert (harper["user"], harper["uid"]) == (site.harper.name, site.harper.uid)
        assert harper["administrator"] is False
        assert site.json("whoami", user=site.admin)["administrator"] is True
        done = subprocess.run(
            [MEPCTL, "-c", site.conf, "whoami"], capture_output=True, text=True, check=True
        )
        assert site.service.base in done.stdout and "a token" in done.stdout
        code, shown = site.terminal("whoami", user=site.harper)
        assert code == 0 and "your own user endpoints" in shown

    def test_version(self, site: Site) -> None:
        for user in (None, site.harper):
            assert site.json("version", user=user)["mepd"] == site.json("version")["mepctl"]


def test_c1_the_socket(site: Site) -> None:
    info = site.socket.stat()
    assert stat.S_IMODE(info.st_mode) == 0o666 and info.st_uid == 0


def test_c1_unknown_verbs_and_arguments(site: Site) -> None:
    """From a table that is closed: no name reaches an attribute."""
    script = (
        "import sys; from pathlib import Path; from mepd.ctl import client\n"
        "from mepd.errors import ControlError\n"
        "for verb in ('nosuch', '__class__', 'table.clear', '_kill', '', 'x' * 5000, 'kill '):\n"
        "    try: client.call(Path(sys.argv[1]), verb)\n"
        "    except ControlError as e: assert e.exit_code == 64 and 'unknown verb' in str(e), e\n"
        "    else: sys.exit(f'{verb!r} was answered')\n"
        "for args in ({'__class__': 1}, {'user': 5}, {'states': 'x'}, {'states': [1]}):\n"
        "    try: client.call(Path(sys.argv[1]), 'list', **args)\n"
        "    except ControlError as e: assert e.exit_code == 64, e\n"
        "    else: sys.exit(f'{args!r} was answered')\n"
    )
    for user in (0, site.harper.uid):
        subprocess.run(
            [sys.executable, "-I", "-c", script, site.socket], check=True, user=user, cwd="/"
        )
