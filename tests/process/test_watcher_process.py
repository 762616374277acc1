"""The config worker as a process of its own, with a fake master at its socket."""

from __future__ import annotations

import json
import os
import select
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeVar

import pytest

from mepd.wire import codec, framing, worker

T = TypeVar("T")
PATIENCE_S = 30.0
TEMPLATE = {"user_config_template.yaml.j2": "engine: {}\n"}
_CHILD = """
import socket, sys
from pathlib import Path
from mepd.config.watchplan import WatchPlan
from mepd.posix.accounts import drop_for_good, lookup
from mepd.watcher.main import run
sock = socket.socket(fileno=int(sys.argv[1]))
drop = lambda: drop_for_good(lookup(sys.argv[2])) if sys.argv[2] else None
sys.exit(run(sock, WatchPlan(tuple(map(Path, sys.argv[3:]))), drop))
"""
# What the library says at the limits fs.inotify.max_user_instances and max_user_watches
NO_WATCHES = (
    "_rust_notify.WatchfilesRustInternalError('Too many open files (os error 24)')",
    "OSError('OS file watch limit reached.')",
)
_REFUSED = """
from watchfiles import _rust_notify
from mepd.watcher import watches
def refuse(*_):
    raise {error}
watches.RustNotify = refuse
"""
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")


class FakeMaster:
    def __init__(self, log: Path, account: str, *folders: Path, before: str = "") -> None:
        self.log = log
        self.sock, theirs = socket.socketpair()
        self.sock.settimeout(PATIENCE_S)
        self._reader = framing.FrameReader()
        self._messages: list[Any] = []
        with theirs, log.open("wb") as stderr:
            self.process = subprocess.Popen(
                [sys.executable, "-c", before + _CHILD, str(theirs.fileno()), account, *folders],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stderr=stderr,
                cwd="/",
            )

    def send(self, message: Any) -> None:
        self.sock.sendall(framing.encode_frame(codec.encode(message)))

    def next(self, kind: type[T]) -> T:
        """The next message; of this kind it must be."""
        while not self._messages:
            data = self.sock.recv(65536)
            assert data, f"the worker ended:\n{self.log.read_text()}"
            self._messages += [
                codec.decode(o, worker.FROM_WATCHER) for o in self._reader.feed(data)
            ]
        message = self._messages.pop(0)
        assert type(message) is kind
        return message

    def silent(self) -> bool:
        """Whether nothing has been said that was not taken."""
        return not self._messages and not select.select([self.sock], [], [], 0)[0]

    def changed(self, path: Path) -> set[str]:
        """All paths told until ``path`` is."""
        seen: set[str] = set()
        while str(path) not in seen:
            seen.update(self.next(worker.Changed).paths)
        return seen

    def validate(self, files: dict[str, str]) -> str:
        self.send(worker.Validate("t1", "debug", files))
        answer = self.next(worker.Validated)
        assert answer.token == "t1"
        return answer.error

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        self.sock.close()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "endpoint"
    path.mkdir(mode=0o700)
    (path / "config.yaml").write_text("display_name: a\n")
    return path


@pytest.fixture
def master(folder: Path, tmp_path: Path) -> Iterator[FakeMaster]:
    fake = FakeMaster(tmp_path / "log", "", folder)
    try:
        fake.next(worker.Ready)
        yield fake
    finally:
        fake.close()


def status_of_threads(pid: int) -> list[dict[str, str]]:
    found = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        lines = (task / "status").read_text().splitlines()
        found.append({k: v.strip() for k, _, v in (line.partition(":") for line in lines)})
    return found


@pytest.mark.parametrize("error", NO_WATCHES)
def test_R6_without_watches_files_are_checked_all_the_same(
    folder: Path, tmp_path: Path, error: str
) -> None:
    """Else no change would count any more: not even of a mapping that is revoked."""
    log = tmp_path / "log"
    fake = FakeMaster(log, "", folder, before=_REFUSED.format(error=error))
    try:
        fake.next(worker.Ready)
        assert "displayname" in fake.validate({"config.yaml": "displayname: a\n", **TEMPLATE})
        assert fake.validate({"config.yaml": "display_name: a\n", **TEMPLATE}) == ""
        assert "no folder is watched" in log.read_text()
        fake.send(worker.Stop())
        assert fake.process.wait(PATIENCE_S) == 0
    finally:
        fake.close()


@needs_root
def test_T1_watches_outlive_the_drop(folder: Path, tmp_path: Path) -> None:
    """0700 of root's: the dropped worker could not even list it, and hears every change."""
    fake = FakeMaster(tmp_path / "log", "nobody", folder)
    try:
        fake.next(worker.Ready)
        threads = status_of_threads(fake.process.pid)
        assert len(threads) >= 3  # main, ours, and the native one that began as root
        for thread in threads:
            assert set(thread["Uid"].split()) == {"65534"}
            assert set(thread["Gid"].split()) == {"65534"}
            assert int(thread["CapPrm"], 16) == int(thread["CapEff"], 16) == 0
        listing = subprocess.run(["ls", folder], user="nobody", group="nogroup", extra_groups=[])
        assert listing.returncode != 0

        config = folder / "config.yaml"
        config.write_text("display_name: b\n")
        fake.changed(config)
        new = folder / "config.new"
        new.write_text("display_name: c\n")
        new.rename(config)
        fake.changed(config)
        config.unlink()
        fake.changed(config)
        schema = folder / "user_config_schema.json"
        schema.write_text("{}")
        schema.chmod(0o600)
        fake.changed(schema)
    finally:
        fake.close()


def test_neither_noise_nor_subfolders_are_told(master: FakeMaster, folder: Path) -> None:
    (folder / "uep").mkdir()
    master.changed(folder / "uep")
    (folder / "uep" / "config.yaml").write_text("a: 1\n")
    (folder / "endpoint.log").write_text("line\n")
    (folder / ".config.yaml.swp").write_text("x")
    (folder / "config.yaml").write_text("a: 1\n")
    seen = master.changed(folder / "config.yaml")
    assert seen <= {str(folder / "config.yaml"), str(folder / "uep")}


def test_folder_that_is_not_there(folder: Path, tmp_path: Path) -> None:
    fake = FakeMaster(tmp_path / "log", "", tmp_path / "absent", folder)
    try:
        fake.next(worker.Ready)
        assert "absent is no folder" in fake.log.read_text()
        (folder / "config.yaml").write_text("a: 1\n")
        fake.changed(folder / "config.yaml")
    finally:
        fake.close()


def test_nothing_to_watch(tmp_path: Path) -> None:
    fake = FakeMaster(tmp_path / "log", "")
    try:
        fake.next(worker.Ready)
        assert fake.validate({"config.yaml": "public: true\n", **TEMPLATE}) == ""
    finally:
        fake.close()


def test_validation_names_file_line_and_reason(master: FakeMaster) -> None:
    error = master.validate({"config.yaml": "display_name: x\nadmins: [\n"})
    assert "config.yaml:3: " in error
    assert master.validate({"config.yaml": "display_name: x\n", **TEMPLATE}) == ""
    error = master.validate({"config.yaml": "\ndisplay: x\n", **TEMPLATE})
    assert error.startswith("config.yaml:2: ")
    error = master.validate({"user_environment.yaml": "A: [b]\n", **TEMPLATE})
    assert error.startswith("user_environment.yaml:1: A: ")
    remote = '{"$ref": "http://127.0.0.1:1/"}'
    error = master.validate({"user_config_schema.json": remote, **TEMPLATE})
    assert "outside the file" in error


@needs_root
def test_schemas_are_checked_after_the_drop(folder: Path, tmp_path: Path) -> None:
    """jsonschema is imported by the service account, within the bound of memory."""
    fake = FakeMaster(tmp_path / "log", "nobody", folder)
    try:
        fake.next(worker.Ready)
        error = fake.validate({"user_config_schema.json": '{"type": "text"}', **TEMPLATE})
        assert "user_config_schema.json: no JSON schema: $.type" in error
        limits = Path(f"/proc/{fake.process.pid}/limits").read_text()
        assert "536870912" in next(line for line in limits.splitlines() if "address" in line)
    finally:
        fake.close()


def test_bombs_cost_an_answer_not_the_worker(master: FakeMaster, folder: Path) -> None:
    laughs = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
        f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]\n" for n in range(1, 30)
    )
    assert "more than" in master.validate({"config.yaml": laughs})
    assert "too deeply" in master.validate({"config.yaml": "{a: " * 50_000})
    assert "larger than" in master.validate({"config.yaml": "#" * 2_000_000})
    deep = '{"items": ' * 50_000 + "{}" + "}" * 50_000
    assert "too deeply" in master.validate({"user_config_schema.json": deep, **TEMPLATE})
    slow = json.dumps({"anyOf": [{"allOf": [{"not": {}}]}] * 38_000})
    assert "longer than 5 s" in master.validate({"user_config_schema.json": slow, **TEMPLATE})
    assert "config.yaml:2: " in master.validate({"config.yaml": "a: [\n"})
    (folder / "config.yaml").write_text("a: 1\n")
    master.changed(folder / "config.yaml")


def test_end_of_file_ends_the_worker_at_once(master: FakeMaster) -> None:
    started = time.monotonic()
    master.sock.shutdown(socket.SHUT_RDWR)
    assert master.process.wait(10) == 0
    assert time.monotonic() - started < 2  # the bar for all that outlives a master


def test_stop(master: FakeMaster) -> None:
    master.send(worker.Stop())
    assert master.process.wait(10) == 0


@pytest.mark.parametrize(
    "frame", [b"\xff\xff\xff\xff", b"\0\0\0\x02{}", b"\0\0\0\x02[]", b"\0\0\0\x01{"]
)
def test_what_is_no_message_ends_the_worker(master: FakeMaster, frame: bytes) -> None:
    master.sock.sendall(frame)
    assert master.process.wait(10) == 76
    assert "unusable" in master.log.read_text()


def test_reading_tells_nothing(master: FakeMaster, folder: Path) -> None:
    """Or the master's own reading of a changed file would be the next change."""
    for _ in range(5):
        (folder / "config.yaml").read_text()
        os.listdir(folder)
    (folder / "other.yaml").write_text("a: 1\n")
    assert master.changed(folder / "other.yaml") == {str(folder / "other.yaml")}
    assert master.silent()
