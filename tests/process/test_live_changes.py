"""A real mepd, with its real watcher, whose configuration changes under it."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mepd.ctl.client import call
from tests.conftest import is_gone, lines_with, require, wait_for

MEPD = Path(sys.executable).parent / "mepd"
SOON = 12.0
"""Seconds, less than the period of the polling that is the fallback."""
TEMPLATE = "user_config_template.yaml.j2"
MAPPING = """[{"DATA_TYPE": "expression_identity_mapping#1.0.0", "mappings":
    [{"source": "{username}", "match": "(.*)@example\\\\.org", "output": "{0}"}]}]"""
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")


def version(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def make_endpoint(folder: Path, display_name: str = "one") -> Path:
    folder.mkdir(mode=0o700)
    (folder / "config.yaml").write_text(
        f"display_name: {display_name}\nidentity_mapping_config_path: mapping.json\n"
    )
    (folder / "mapping.json").write_text(MAPPING)
    (folder / TEMPLATE).write_text("engine: {type: ThreadPoolEngine}\n")
    return folder


class Mepd:
    """One mepd in one folder, whose service is not there: nothing here needs it."""

    def __init__(self, folder: Path) -> None:
        require(MEPD.exists(), "mepd installed beside this Python")
        self.dir = folder
        self.conf = folder / "mepd.conf"
        self.confd = folder / "conf.d"
        self.confd.mkdir(mode=0o755)
        self.conf.write_text(
            "[mepd]\nlogfile = log/mepd.log\npidfile = run/mepd.pid\nuser = nobody\n"
            "[control]\nfile = run/mepd.sock\n[service]\nurl = http://127.0.0.1:9\n"
            "[include]\nfiles = conf.d/*.conf\n[endpoint:debug]\ndirectory = debug\n"
        )
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> Mepd:
        with (self.dir / "console").open("wb") as console:
            self.process = subprocess.Popen(
                [MEPD, "-n", "-c", self.conf], stdin=subprocess.DEVNULL, stdout=console,
                stderr=console, cwd="/",
            )  # fmt: skip
        self.soon("config-watcher is ready")
        return self

    def log(self) -> str:
        try:
            return (self.dir / "log/mepd.log").read_text()
        except OSError:
            return ""

    def soon(self, text: str, count: int = 1) -> None:
        wait_for(lambda: self.log().count(text) >= count, SOON, f"{text!r} in\n{self.log()}")

    def status(self) -> dict[str, Any]:
        data: dict[str, Any] = call(self.dir / "run/mepd.sock", "status")
        return data

    def endpoints(self) -> dict[str, Any]:
        return {e["name"]: e for e in self.status()["endpoints"]}

    def programs(self) -> dict[str, Any]:
        return {p["name"]: p for p in self.status()["programs"]}

    def file(self, name: str, endpoint: str = "debug") -> dict[str, Any]:
        """What status says of a file of an endpoint, or of mepd.conf's."""
        status = self.endpoints()[endpoint] if endpoint else self.status()["master"]
        return next((f for f in status["files"] if Path(f["path"]).name == name), {})

    def in_force(self, name: str, text: str, endpoint: str = "debug") -> None:
        wait_for(
            lambda: self.file(name, endpoint).get("version") == version(text), SOON,
            f"{name} in force; {self.log()}",
        )  # fmt: skip

    def refused(self, name: str, endpoint: str = "debug") -> str:
        return str(
            wait_for(
                lambda: self.file(name, endpoint).get("error"), SOON,
                f"an error of {name}; {self.log()}",
            )
        )  # fmt: skip

    def watcher(self) -> int:
        workers = {w["name"]: w for w in self.status()["workers"]}
        return int(workers["config-watcher"]["pid"])

    def stop(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            assert self.process.wait(20) == 0


@pytest.fixture
def made(tmp_path: Path) -> Iterator[Mepd]:
    """Ready to be started."""
    tmp_path.chmod(0o755)
    mepd = Mepd(tmp_path)
    make_endpoint(tmp_path / "debug")
    yield mepd
    mepd.stop()


@pytest.fixture
def mepd(made: Mepd) -> Mepd:
    return made.start()


def test_files_that_are_written_replaced_added_and_removed(mepd: Mepd) -> None:
    folder = mepd.dir / "debug"
    config = folder / "config.yaml"
    text = config.read_text().replace("one", "two")
    before, pid = mepd.file(TEMPLATE), mepd.watcher()
    config.write_text(text)  # in place
    mepd.in_force("config.yaml", text)
    mepd.soon("Configuration of endpoint debug changed: config.yaml: display_name; in force")
    text += "public: true\n"
    (folder / ".config.yaml.new").write_text(text)
    (folder / ".config.yaml.new").rename(config)  # as editors and rsync do
    mepd.in_force("config.yaml", text)
    mepd.soon("changed: config.yaml: public; in force")
    (folder / "user_environment.yaml").write_text("SECRET_NAME: canary-value\n")
    mepd.soon("changed: user_environment.yaml: SECRET_NAME; in force")
    (folder / "user_environment.yaml").unlink()
    mepd.soon("changed: user_environment.yaml (removed); in force")
    assert mepd.file(TEMPLATE) == before  # version and time of what did not change
    assert not lines_with("canary", mepd.log())
    assert mepd.watcher() == pid  # no folder changed: the same watcher goes on


def test_a_file_that_config_yaml_names_elsewhere(mepd: Mepd) -> None:
    elsewhere = mepd.dir / "elsewhere"
    elsewhere.mkdir()
    schema = elsewhere / "schema.json"
    schema.write_text("{}")
    config = mepd.dir / "debug/config.yaml"
    config.write_text(config.read_text() + f"user_config_schema_path: {schema}\n")
    mepd.in_force("schema.json", "{}")
    wait_for(lambda: mepd.log().count("config-watcher is ready") == 2, SOON, "a new watcher")
    schema.write_text('{"type": "object"}')
    mepd.in_force("schema.json", '{"type": "object"}')
    restarts = {w["name"]: w["restarts"] for w in mepd.status()["workers"]}
    assert restarts["config-watcher"] == 0  # it made room, it did not fail


def test_links_of_configuration_management(made: Mepd) -> None:
    """The content of a link's target, and the link itself."""
    store = made.dir / "store"
    store.mkdir(mode=0o700)
    (store / "a").write_text("engine: {a: 1}\n")
    (store / "b").write_text("engine: {b: 1}\n")
    template = made.dir / "debug" / TEMPLATE
    template.unlink()
    template.symlink_to("../store/a")
    made.start()
    (store / "a").write_text("engine: {a: 2}\n")
    made.in_force(TEMPLATE, "engine: {a: 2}\n")
    (store / "c").write_text("engine: {a: 3}\n")
    (store / "c").rename(store / "a")
    made.in_force(TEMPLATE, "engine: {a: 3}\n")
    new = template.with_name(".link")
    new.symlink_to("../store/b")
    new.rename(template)
    made.in_force(TEMPLATE, "engine: {b: 1}\n")
    (store / "b").write_text("engine: {b: 2}\n")
    made.in_force(TEMPLATE, "engine: {b: 2}\n")


def test_swaps_of_a_configmap(made: Mepd) -> None:
    """Kubernetes: NAME -> ..data/NAME, ..data -> ..DATE, of which ..data is replaced."""
    folder = made.dir / "debug"

    def publish(number: int, text: str) -> None:
        data = folder / f"..{number}"
        data.mkdir()
        (data / TEMPLATE).write_text(text)
        (folder / "..data_tmp").symlink_to(data.name)
        (folder / "..data_tmp").rename(folder / "..data")

    publish(1, "engine: {n: 1}\n")
    (folder / TEMPLATE).unlink()
    (folder / TEMPLATE).symlink_to(f"..data/{TEMPLATE}")
    made.start()
    for number in (2, 3, 4):
        publish(number, f"engine: {{n: {number}}}\n")
        made.in_force(TEMPLATE, f"engine: {{n: {number}}}\n")
    made.soon(f"changed: {TEMPLATE}; in force", 3)


def test_an_invalid_change_is_shown_and_not_in_force(mepd: Mepd) -> None:
    config = mepd.dir / "debug/config.yaml"
    good = config.read_text()
    config.write_text(good + "displayname: x\n")
    error = mepd.refused("config.yaml")
    assert "config.yaml:3: displayname: unknown key" in error
    assert mepd.file("config.yaml")["version"] == version(good)
    assert mepd.endpoints()["debug"]["reason"] == error
    mepd.soon(f"Unable to update the configuration of endpoint debug -- {config}:3: ")
    (mepd.dir / "debug/user_config_schema.json").write_text('{"type": "text"}')
    config.write_text(good)
    assert "no JSON schema" in mepd.refused("user_config_schema.json")
    assert mepd.file("user_config_schema.json")["version"] is None
    (mepd.dir / "debug/user_config_schema.json").unlink()
    mepd.soon("Configuration of endpoint debug is again what is in force")
    assert not any(f["error"] for f in mepd.endpoints()["debug"]["files"])


HOSTILE = {
    "a FIFO": os.mkfifo,
    "a folder": os.mkdir,
    "a device": lambda path: os.symlink("/dev/zero", path),
    "a link to itself": lambda path: os.symlink(path.with_name(path.name.removesuffix("~")), path),
    "a link to nowhere": lambda path: os.symlink("/nowhere/file", path),
    "a disk that fails": lambda path: os.symlink("/proc/self/mem", path),
    "too much": lambda path: path.write_bytes(b" " * (1024 * 1024 + 1)),
    "white space": lambda path: path.write_bytes(b"[mepd]\na" + b" " * 500_000 + b"{{"),
    "lines": lambda path: path.write_bytes(b"[mepd]\n" + b"a\n" * 400_000 + b"{{"),
    "a number": lambda path: path.write_bytes(b"a: " + b"1:" * 400_000 + b"1{{"),
}


@pytest.mark.parametrize("name", ["mepd.conf", "debug/config.yaml", f"debug/{TEMPLATE}"])
def test_whatever_takes_the_place_of_a_file_is_an_error(mepd: Mepd, name: str) -> None:
    """The master answers all the while, and goes on with what it had."""
    path = mepd.dir / name
    good = path.read_bytes()
    endpoint = "debug" if name.startswith("debug") else ""
    for what, make in HOSTILE.items():
        new = path.with_name(path.name + "~")
        make(new)
        if what == "a folder":
            path.unlink()
        new.rename(path)
        error = mepd.refused(path.name, endpoint)
        assert path.name in error and len(error) < 2100, (what, error)
        path.rmdir() if what == "a folder" else path.unlink()
        path.write_bytes(good)
        wait_for(lambda: not mepd.file(path.name, endpoint).get("error"), SOON, f"no {what}")
    assert not lines_with("unexpected error", mepd.log())
    assert not lines_with("Traceback", mepd.log())


@needs_root
def test_D8_a_file_that_others_can_write_is_not_taken_over(mepd: Mepd) -> None:
    template = mepd.dir / "debug" / TEMPLATE
    old = template.read_text()
    template.chmod(0o666)
    template.write_text("engine: {evil: 1}\n")
    assert "is writable by others (mode 0666)" in mepd.refused(TEMPLATE)
    assert mepd.file(TEMPLATE)["version"] == version(old)
    template.chmod(0o644)
    mepd.in_force(TEMPLATE, "engine: {evil: 1}\n")
    late = mepd.confd / "late.conf"
    late.write_text("")
    late.chmod(0o666)
    make_endpoint(mepd.dir / "late")
    late.write_text("[endpoint:late]\ndirectory = ../late\n")
    mepd.soon("late.conf: is writable by others")
    assert "is writable by others" in mepd.refused("late.conf", "")
    assert "late" not in mepd.endpoints()


def test_endpoints_of_conf_d_come_and_go(mepd: Mepd) -> None:
    make_endpoint(mepd.dir / "gpu")
    make_endpoint(mepd.dir / "other")
    before = mepd.endpoints()["debug"]
    conf = mepd.confd / "gpu.conf"
    conf.write_text("[endpoint:gpu]\ndirectory = ../gpu\n")
    wait_for(lambda: "gpu" in mepd.endpoints(), SOON, "the new endpoint")
    mepd.soon("Configuration changed: [endpoint:gpu] added (")
    assert mepd.file("gpu.conf", "")["version"] == version(conf.read_text())
    wait_for(lambda: mepd.log().count("config-watcher is ready") == 2, SOON, "a new watcher")
    template = "engine: {gpu: 1}\n"
    (mepd.dir / "gpu" / TEMPLATE).write_text(template)
    mepd.in_force(TEMPLATE, template, "gpu")

    conf.write_text("[endpoint:gpu]\ndirectory = ../other\n")
    mepd.soon("Configuration changed: [endpoint:gpu] directory")
    paths = [f["path"] for f in mepd.endpoints()["gpu"]["files"]]
    assert paths and all(p.startswith(str(mepd.dir / "other")) for p in paths)

    conf.unlink()
    wait_for(lambda: "gpu" not in mepd.endpoints(), SOON, "its end")
    mepd.soon("endpoint gpu is gone")
    assert mepd.endpoints()["debug"]["files"] == before["files"]


def test_an_error_anywhere_in_mepd_conf_changes_nothing(mepd: Mepd) -> None:
    good = mepd.conf.read_text()
    conf = mepd.confd / "x.conf"
    conf.write_text(
        "[program:p]\ncommand = /bin/sleep 600\n[endpoint:x]\ndirectory = ../nowhere\n"
    )
    mepd.soon("nowhere: there is no such folder; the previous one remains in force")
    assert mepd.programs() == {} and set(mepd.endpoints()) == {"debug"}
    conf.unlink()
    mepd.soon("is good again")
    mepd.conf.write_text(good.replace("[mepd]\n", "[mepd]\nmax_uep = 1\n"))
    error = mepd.refused("mepd.conf", "")
    assert "mepd.conf:2: unknown key 'max_uep'" in error
    mepd.conf.write_text(good.replace("[mepd]\n", "[mepd]\nmax_ueps = 1\n"))
    mepd.soon("Configuration changed: [mepd] max_ueps (")
    mepd.conf.write_text(good.replace("log/mepd.log", "log/other.log"))
    mepd.soon("in force only when mepd is started again: [mepd] logfile")


def test_programs_start_stop_and_are_replaced(mepd: Mepd) -> None:
    conf = mepd.confd / "p.conf"
    text = "[program:{}]\ncommand = /bin/sleep {}\nstartsecs = 0\n"
    keep = mepd.confd / "keep.conf"
    keep.write_text(text.format("keep", 600))
    conf.write_text(text.format("p", 600))
    wait_for(
        lambda: {p["state"] for p in mepd.programs().values()} == {"RUNNING"}
        and len(mepd.programs()) == 2, SOON, "both programs",
    )  # fmt: skip
    kept, first = mepd.programs()["keep"]["pid"], mepd.programs()["p"]["pid"]
    conf.write_text(text.format("p", 601))
    wait_for(
        lambda: mepd.programs().get("p", {}).get("pid") not in (None, first), SOON, "its successor"
    )
    assert is_gone(first)
    second = mepd.programs()["p"]["pid"]
    conf.unlink()
    wait_for(lambda: "p" not in mepd.programs(), SOON, "its end")
    assert is_gone(second)
    assert mepd.programs()["keep"]["pid"] == kept and not is_gone(kept)


def test_what_changes_while_nobody_watches(mepd: Mepd) -> None:
    """The watcher is killed; its successor finds what it has missed."""
    text = "engine: {missed: 1}\n"
    os.kill(mepd.watcher(), signal.SIGSTOP)
    (mepd.dir / "debug" / TEMPLATE).write_text(text)
    os.kill(mepd.watcher(), signal.SIGKILL)
    mepd.in_force(TEMPLATE, text)


def test_a_reload_spares_what_mepctl_started(mepd: Mepd) -> None:
    make_endpoint(mepd.dir / "hand")
    make_endpoint(mepd.dir / "lazy")
    socket = mepd.dir / "run/mepd.sock"
    call(socket, "start", name="hand", directory=str(mepd.dir / "hand"))
    (mepd.confd / "lazy.conf").write_text(
        "[endpoint:lazy]\ndirectory = ../lazy\nautostart = false\n"
    )
    mepd.soon("Configuration changed: [endpoint:lazy] added")
    call(socket, "reload")
    assert set(mepd.endpoints()) == {"debug", "hand"}
    text = "engine: {hand: 1}\n"
    (mepd.dir / "hand" / TEMPLATE).write_text(text)
    mepd.in_force(TEMPLATE, text, "hand")


def test_a_folder_that_is_replaced_as_a_whole(mepd: Mepd) -> None:
    """SIGHUP at once, polling in half a minute; the watch then is on the new folder."""
    old, new = mepd.dir / "debug", make_endpoint(mepd.dir / "new")
    (new / TEMPLATE).write_text("engine: {new: 1}\n")
    old.rename(mepd.dir / "old")
    new.rename(old)
    assert mepd.process is not None
    mepd.process.send_signal(signal.SIGHUP)
    mepd.in_force(TEMPLATE, "engine: {new: 1}\n")
    wait_for(lambda: mepd.log().count("config-watcher is ready") == 2, SOON, "a new watcher")
    (old / TEMPLATE).write_text("engine: {new: 2}\n")
    mepd.in_force(TEMPLATE, "engine: {new: 2}\n")


BROKEN = [
    (TEMPLATE, "a: 1\nb: {{ A", f"{TEMPLATE}:2: no Jinja template"),
    (TEMPLATE, "a: {{ A|no_such }}", f"{TEMPLATE}:1: no Jinja template: No filter named"),
    ("user_config_schema.json", '{"type": "text"}', "user_config_schema.json: no JSON schema"),
    ("user_config_schema.json", '{"$ref": "http://[::1]/"}', "user_config_schema.json: $ref to"),
    ("user_environment.yaml", "A: [1]\n", "user_environment.yaml:1: A: values must not"),
    (
        "mapping.json",
        '[{"DATA_TYPE": "expression_identity_mapping#1.0.0", "mappings":'
        ' [{"source": "{email}", "match": "(.*", "output": "{0}"}]}]',
        "mapping.json: document 1, rule 1 ('(.*'): missing )",
    ),
]


def test_what_the_libraries_refuse_is_not_taken_over(mepd: Mepd) -> None:
    folder = mepd.dir / "debug"
    for name, broken, told in BROKEN:
        old = (folder / name).read_text() if (folder / name).exists() else None
        before = mepd.file(name).get("version")
        (folder / name).write_text(broken)
        assert told in mepd.refused(name)
        mepd.soon(f"Unable to update the configuration of endpoint debug -- {told}")
        assert mepd.file(name).get("version") == before
        if old is None:
            (folder / name).unlink()
        else:
            (folder / name).write_text(old)
        wait_for(lambda: not mepd.file(name).get("error"), SOON, "good again")


@pytest.mark.parametrize(("name", "text", "told"), BROKEN)
def test_what_the_libraries_refuse_is_no_configuration_to_start_with(
    made: Mepd, name: str, text: str, told: str
) -> None:
    folder = made.dir / "debug"
    (folder / name).write_text(text)
    done = subprocess.run(
        [MEPD, "-n", "-c", made.conf], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 78
    assert f"mepd: {folder}/{told}" in done.stderr and done.stderr.count("\n") == 1


def test_an_endpoint_that_is_added_with_a_fault_is_named(mepd: Mepd) -> None:
    folder = make_endpoint(mepd.dir / "more")
    (folder / TEMPLATE).write_text("a: {{ A")
    (mepd.confd / "more.conf").write_text("[endpoint:more]\ndirectory = ../more\n")
    mepd.soon("endpoint more is served from now on")
    assert "no Jinja template" in mepd.refused(TEMPLATE, "more")
    mepd.soon("Configuration of endpoint more is faulty -- user_config_template.yaml.j2:1: no")
    call(mepd.dir / "run/mepd.sock", "reload")
    assert "no Jinja template" in mepd.refused(TEMPLATE, "more")
    (folder / TEMPLATE).write_text("engine: {}\n")
    mepd.in_force(TEMPLATE, "engine: {}\n", "more")
    assert not mepd.file(TEMPLATE, "more")["error"]
