"""mepd as a daemon: daemon(7), one at a time, its pidfile, its signals, its titles."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.conftest import User, is_gone, lines_with, need_root, require, wait_for

PREFIX = Path(sys.executable).parent.parent


class Daemon:
    """One configuration, and the mepd that runs by it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.conf = folder / "mepd.conf"
        self.pidfile = folder / "run/mepd.pid"
        self.logfile = folder / "log/mepd.log"
        self.configure()

    def configure(self, more: str = "", sections: str = "") -> None:
        self.conf.write_text(
            f"[mepd]\nlogfile = log/mepd.log\npidfile = run/mepd.pid\nuser = nobody\n{more}"
            f"[control]\nfile = run/mepd.sock\n{sections}"
        )

    def start(self, *options: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [PREFIX / "bin/mepd", "-c", self.conf, *options], capture_output=True, text=True,
            timeout=60,
        )  # fmt: skip

    @property
    def pid(self) -> int:
        return int(self.pidfile.read_text())

    def log(self) -> str:
        return self.logfile.read_text() if self.logfile.exists() else ""

    def stop(self) -> None:
        if self.pidfile.exists() and self.pidfile.read_text().strip().isdigit():
            pid = self.pid
            if not is_gone(pid) and b"mepd: master" in Path(f"/proc/{pid}/cmdline").read_bytes():
                os.kill(pid, signal.SIGTERM)
                wait_for(lambda: is_gone(pid), 20, "the end of mepd")


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Daemon]:
    need_root()
    require((PREFIX / "bin/mepd").exists(), "mepd installed beside this Python")
    made = Daemon(tmp_path)
    yield made
    made.stop()


def status(pid: int, name: str) -> str:
    text = Path(f"/proc/{pid}/status").read_text()
    return next(line.split(None, 1)[1] for line in text.splitlines() if line.startswith(name))


def test_it_leaves_its_starter_behind(daemon: Daemon) -> None:
    done = daemon.start()
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    master = daemon.pid
    fields = Path(f"/proc/{master}/stat").read_text().rpartition(")")[2].split()
    session, terminal = int(fields[3]), int(fields[4])
    assert session not in (master, os.getsid(0)) and terminal == 0
    assert os.readlink(f"/proc/{master}/cwd") == "/"
    assert {os.readlink(f"/proc/{master}/fd/{n}") for n in (0, 1, 2)} == {"/dev/null"}
    assert status(master, "Umask") == "0022"


def test_titles(daemon: Daemon) -> None:
    daemon.start()
    wait_for(lambda: "config-watcher is ready" in daemon.log())
    wait_for(lambda: "amqp-consumer is ready" in daemon.log())
    family = [psutil.Process(daemon.pid), *psutil.Process(daemon.pid).children()]
    shown = {p.cmdline()[0]: p.username() for p in family}
    assert shown == {"mepd: master": "root", "mepd: log-writer": "root",
                     "mepd: amqp-consumer": "nobody", "mepd: config-watcher": "nobody"}  # fmt: skip


def test_a_second_instance_is_told_and_changes_nothing(daemon: Daemon) -> None:
    daemon.start()
    first, log = daemon.pid, daemon.log()
    for options in ((), ("-n",)):
        done = daemon.start(*options)
        assert done.returncode == os.EX_CANTCREAT
        assert done.stderr == f"mepd: already running (pid {first}, {daemon.pidfile})\n"
    assert daemon.pid == first and log in daemon.log()
    assert not lines_with("not started", daemon.log())


@pytest.mark.parametrize("content", ["", "1\n", "garbage\n", "99999999\n", "ours\n"])
def test_C5_a_stale_pidfile_is_taken_over(daemon: Daemon, content: str) -> None:
    """Whoever it names: a running mepd holds it locked, and nobody else does."""
    content = content.replace("ours", str(os.getpid()))
    daemon.pidfile.parent.mkdir()
    daemon.pidfile.write_text(content)
    assert daemon.start().returncode == 0
    assert str(daemon.pid) != content.strip() and daemon.pidfile.read_text() == f"{daemon.pid}\n"
    daemon.stop()
    assert not daemon.pidfile.exists()


def test_a_pidfile_is_no_way_to_another_file(daemon: Daemon, tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("x")
    daemon.pidfile.parent.mkdir()
    daemon.pidfile.symlink_to(tmp_path / "precious")
    done = daemon.start()
    assert done.returncode == os.EX_CANTCREAT and "pidfile" in done.stderr
    assert (tmp_path / "precious").read_text() == "x"


@pytest.mark.parametrize(
    ("more", "code", "said"),
    [
        ("log_to = elsewhere\n", os.EX_CONFIG, "'elsewhere' is not one of file, syslog"),
        ("loglevl = info\n", os.EX_CONFIG, "loglevel"),
        ("logfile_maxbytes = huge\n", os.EX_CONFIG, "is no size such as 50MB"),
    ],
)
def test_what_is_wrong_is_told_to_the_starter(
    daemon: Daemon, more: str, code: int, said: str
) -> None:
    daemon.configure(more)
    for options in ((), ("-n",)):
        done = daemon.start(*options)
        assert done.returncode == code and said in done.stderr
        assert done.stderr.count("\n") == 1 and str(daemon.conf) in done.stderr


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("user = nobody", "user = root", "[mepd] user must not be root"),
        ("user = nobody", "user = nosuch-x", "[mepd] user = nosuch-x: there is no such account"),
        ("[control]", "[control]\nchown = nosuch-x", "[control] chown = nosuch-x: "),
        ("[control]", "[control]\nchown = root:nosuch-x", "[control] chown = root:nosuch-x: "),
        ("[mepd]", "[mepd]\nallow_groups = nosuch-x", "[mepd] allow_groups: "),
        ("[control]", "[program:x]\ncommand = /bin/true\nuser = nosuch-x\n[control]",
         "[program:x] user = nosuch-x: there is no such account"),
    ],
)  # fmt: skip
def test_an_account_or_group_that_cannot_be_is_told_with_its_line(
    daemon: Daemon, old: str, new: str, said: str
) -> None:
    text = daemon.conf.read_text().replace(old, new)
    daemon.conf.write_text(text)
    line = text.split("\n").index(new.removesuffix("\n[control]").split("\n")[-1]) + 1
    done = daemon.start("-n")
    assert done.returncode == os.EX_CONFIG
    assert f"{daemon.conf}:{line}: {said}" in done.stderr


@pytest.mark.parametrize(
    ("old", "new", "code", "said"),
    [
        ("user = nobody", "user = root", os.EX_CONFIG, "[mepd] user must not be root"),
        ("user = nobody", "user = nosuch-x", os.EX_CONFIG, "user = nosuch-x: there is no such"),
        ("[control]", "[control]\nchown = nosuch-x", os.EX_CONFIG, "chown = nosuch-x"),
        ("[control]\nfile = run", "[control]\nfile = mepd.conf", os.EX_CANTCREAT,
         "control socket "),
        ("[control]\nfile = run", "[control]\nfile = " + "x" * 200, os.EX_CANTCREAT,
         "path too long"),
        ("[control]", "[program:x]\ncommand = /bin/true\nuser = nosuch-x\n[control]",
         os.EX_CONFIG, "nosuch-x"),
        ("[control]", "[endpoint:a]\ndirectory = nosuch\n[control]", os.EX_CONFIG,
         "nosuch: there is no such folder"),
        ("[control]", "[endpoint:a]\ndirectory = bad\n[control]", os.EX_CONFIG,
         "nosuchkey: unknown key"),
        ("[control]", "[endpoint:a]\ndirectory = torn\n[control]", os.EX_CONFIG,
         "user_config_template.yaml.j2"),
    ],
)  # fmt: skip
def test_what_cannot_be_served_is_told_to_the_starter(
    daemon: Daemon, old: str, new: str, code: int, said: str
) -> None:
    mapping = '[{"DATA_TYPE": "external_identity_mapping#1.0.0", "command": ["/bin/false"]}]'
    for name, key in (("bad", "nosuchkey"), ("torn", "identity_mapping_config_path")):
        (daemon.folder / name).mkdir()
        (daemon.folder / name / "config.yaml").write_text(f"{key}: map.json\n")
        (daemon.folder / name / "map.json").write_text(mapping)
        (daemon.folder / name / "user_config_template.yaml.j2").write_text("{{ a\n")
    daemon.conf.write_text(daemon.conf.read_text().replace(old, new))
    for options in ((), ("-n",)):
        done = daemon.start(*options)
        assert done.returncode == code and said in done.stderr
        assert done.stderr.startswith("mepd: ") and "Traceback" not in done.stderr


def test_a_configuration_that_is_missing_or_of_another(daemon: Daemon, harper: User) -> None:
    os.chown(daemon.conf, harper.uid, -1)
    done = daemon.start("-n")
    assert done.returncode == os.EX_CONFIG and str(daemon.conf) in done.stderr
    daemon.conf.unlink()
    done = daemon.start("-n")
    assert done.returncode == os.EX_NOINPUT
    assert done.stderr == f"mepd: {daemon.conf}: No such file or directory\n"
    daemon.configure(sections="[include]\nfiles = *.inc\n")
    included = daemon.folder / "a.inc"
    included.symlink_to("nowhere")
    done = daemon.start("-n")
    assert done.returncode == os.EX_CONFIG
    assert done.stderr == f"mepd: {included}: is a link to a file that does not exist\n"


def test_an_endpoint_that_may_not_be_read(daemon: Daemon, harper: User) -> None:
    """Without root, which may read everything."""
    home = Path(harper.home)
    folder = home / "gpu"
    folder.mkdir()
    (folder / "config.yaml").write_text("{}\n")
    (folder / "config.yaml").chmod(0)
    conf = home / "own.conf"
    conf.write_text(
        f"[mepd]\nlogfile = own.log\npidfile = own.pid\n[control]\nfile = own.sock\n"
        f"[endpoint:gpu]\ndirectory = {folder}\n"
    )
    for path in (folder, conf):
        os.chown(path, harper.uid, harper.gid)
    done = subprocess.run(
        [PREFIX / "bin/mepd", "-n", "-c", conf], capture_output=True, text=True, timeout=60,
        user=harper.uid, group=harper.gid, extra_groups=[],
    )  # fmt: skip
    assert done.returncode == os.EX_NOPERM
    assert f"{folder}/config.yaml: Permission denied" in done.stderr


def test_a_log_that_cannot_be_opened(daemon: Daemon, tmp_path: Path) -> None:
    (tmp_path / "log").write_text("a file where a folder should be")
    done = daemon.start()
    assert done.returncode == os.EX_CANTCREAT and f"log {daemon.logfile}: " in done.stderr


def test_signals(daemon: Daemon, tmp_path: Path) -> None:
    daemon.start()
    master = daemon.pid
    os.kill(master, signal.SIGUSR1)
    wait_for(lambda: "0 user endpoints" in daemon.log(), what="the table")
    daemon.logfile.rename(tmp_path / "old")
    os.kill(master, signal.SIGUSR2)
    wait_for(lambda: "log reopened" in daemon.log(), what="the new log")
    os.kill(master, signal.SIGHUP)
    wait_for(lambda: "rereading the configuration" in daemon.log(), what="the reload")
    assert "rereading" not in (tmp_path / "old").read_text()
    daemon.stop()
    assert daemon.log().endswith("mepd stopped\n")


def test_in_the_foreground_with_the_log_on_the_console(daemon: Daemon) -> None:
    mepd = subprocess.Popen(
        [PREFIX / "bin/mepd", "-n", "-c", daemon.conf, "--log-to-console", "--debug"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    wait_for(lambda: "config-watcher is ready" in daemon.log())
    assert daemon.pid == mepd.pid
    mepd.send_signal(signal.SIGINT)
    out, err = mepd.communicate(timeout=20)
    assert (mepd.returncode, out) == (0, "")
    assert err == daemon.log() and "mepd stopped" in err


def test_R9_what_a_terminal_sends_to_all_ends_them_in_their_order(daemon: Daemon) -> None:
    """^C goes to the whole process group: programs stay until the others have gone."""
    daemon.configure(sections="[program:x]\ncommand = /bin/sleep 1000\n")
    mepd = subprocess.Popen(
        [PREFIX / "bin/mepd", "-n", "-c", daemon.conf], start_new_session=True,
        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    wait_for(lambda: "program x is running" in daemon.log())
    wait_for(lambda: "amqp-consumer is ready" in daemon.log())
    os.killpg(mepd.pid, signal.SIGINT)
    assert mepd.wait(20) == 0
    log = daemon.log()
    assert log.count("program x started") == 1 and "broke the protocol" not in log
    assert "consumer ended" not in log and log.endswith("mepd stopped\n")


def _blocked() -> None:
    signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())


def _ignored() -> None:
    for number in (signal.SIGCHLD, signal.SIGTERM, signal.SIGHUP, signal.SIGPIPE):
        signal.signal(number, signal.SIG_IGN)


def _closed() -> None:
    os.closerange(0, 3)


@pytest.mark.parametrize("options", [[], ["-n"]])
@pytest.mark.parametrize("inherited", [_blocked, _ignored, _closed])
def test_D6_what_it_was_started_with_does_not_keep_it_from_its_work(
    daemon: Daemon, options: list[str], inherited: Callable[[], None]
) -> None:
    """It notices the ends of its children, has its standard streams, and stops when told."""
    starter = subprocess.Popen(
        [PREFIX / "bin/mepd", "-c", daemon.conf, *options], preexec_fn=inherited,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    wait_for(lambda: "amqp-consumer is ready" in daemon.log(), what="the start")
    master = psutil.Process(daemon.pid)
    assert {os.readlink(f"/proc/{master.pid}/fd/{n}") for n in (0, 1, 2)} == {"/dev/null"}
    children = master.children()
    (consumer,) = [p for p in children if p.cmdline()[:1] == ["mepd: amqp-consumer"]]
    consumer.kill()
    wait_for(lambda: daemon.log().count("amqp-consumer is ready") == 2, what="another one")
    os.kill(master.pid, signal.SIGTERM)
    assert starter.wait(20) == 0
    wait_for(lambda: is_gone(master.pid), 20, "the end of mepd")
    assert daemon.log().endswith("mepd stopped\n")


def test_the_numbers(daemon: Daemon, tmp_path: Path) -> None:
    daemon.configure(sections="[metrics]\ntextfile = mepd.prom\ninterval = 1\n")
    daemon.start()
    prom = tmp_path / "mepd.prom"
    wait_for(prom.exists, what="the file")

    def restarts() -> dict[str, float]:
        families = text_string_to_metric_families(prom.read_text())
        (found,) = [f for f in families if f.name == "mepd_worker_restarts"]
        return {s.labels["worker"]: s.value for s in found.samples}

    assert restarts() == {"log-writer": 0, "amqp-consumer": 0, "config-watcher": 0}

    def mortal() -> list[psutil.Process]:
        children = psutil.Process(daemon.pid).children()
        names = ("mepd: amqp-consumer", "mepd: log-writer")
        return [c for c in children if " ".join(c.cmdline()).startswith(names)]

    wait_for(lambda: len(mortal()) == 2, what="both titles")
    for child in mortal():
        child.kill()
    wanted = {"log-writer": 1, "amqp-consumer": 1, "config-watcher": 0}
    wait_for(lambda: restarts() == wanted, what="the counters")
    daemon.configure()
    os.kill(daemon.pid, signal.SIGHUP)
    wait_for(lambda: not prom.exists(), what="the file's removal")


def test_R7_a_read_only_disk_does_not_spoil_the_end(daemon: Daemon) -> None:
    """What cannot be removed stays, is told, and is in nobody's way later."""
    run = daemon.pidfile.parent
    run.mkdir()
    assert daemon.start().returncode == 0
    pid = daemon.pid
    subprocess.run(["mount", "--bind", run, run], check=True)
    try:
        subprocess.run(["mount", "-o", "remount,bind,ro", run], check=True)
        os.kill(pid, signal.SIGTERM)
        wait_for(lambda: is_gone(pid), 20, "the end of mepd")
    finally:
        subprocess.run(["umount", run], check=True)
    log = daemon.log()
    assert f"{daemon.pidfile} stays: Read-only file system" in log
    assert "mepd stopped" in log and "unexpected error" not in log
    assert daemon.start().returncode == 0
