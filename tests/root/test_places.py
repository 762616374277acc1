"""F5, F3: whatever a user has put where the log goes; a user who has used up all pipes."""

from __future__ import annotations

import dataclasses
import fcntl
import json
import os
import resource
import shutil
import socket
import stat
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from mepd.model import Stage, StartRequest
from mepd.posix import accounts, descriptors
from tests.conftest import User, make_user, need_root, remove_user
from tests.root import launching

UEP = "import socket; socket.socket(fileno=5).sendall(open(0, 'rb').read())\n"


def give(user: User, *paths: Path) -> None:
    for path in paths:
        os.chown(path, user.uid, user.gid, follow_symlinks=False)


def own_link(log: Path, _: Path) -> None:
    other = log.with_name("other")
    other.touch()
    shutil.chown(other, log.parent.owner(), log.parent.group())
    log.symlink_to(other)


def hard_link(log: Path, secret: Path) -> None:
    secret.chmod(0o666)  # the worst: the user may write it
    os.link(secret, log)


def device(log: Path, _: Path) -> None:
    os.mknod(log, stat.S_IFCHR | 0o666, os.makedev(1, 3))


def a_socket(log: Path, _: Path) -> None:
    here = os.getcwd()
    os.chdir(log.parent)  # a longer path would not fit
    try:
        socket.socket(socket.AF_UNIX).bind(log.name)
    finally:
        os.chdir(here)


def closed(log: Path, _: Path) -> None:
    log.touch()
    log.chmod(0)


def of_root(log: Path, _: Path) -> None:
    log.touch()
    log.chmod(0o666)


# How each is made, and whether it is given to the user then.
KINDS: dict[str, tuple[Callable[[Path, Path], object], bool]] = {
    "a link": (lambda log, secret: log.symlink_to(secret), True),
    "a link to a file of the user's": (own_link, True),
    "a dangling link": (lambda log, secret: log.symlink_to(secret.parent / "made"), True),
    "a link to itself": (lambda log, _: log.symlink_to(log), True),
    "a hard link": (hard_link, False),
    "a FIFO": (lambda log, _: os.mkfifo(log, 0o666), True),
    "a FIFO that is read": (lambda log, _: os.mkfifo(log, 0o666), True),
    "a folder": (lambda log, _: log.mkdir(), True),
    "a device": (device, True),
    "a socket": (a_socket, True),
    "mode 0000": (closed, True),
    "root's": (of_root, False),
    "a folder of mode 0000": (lambda log, _: log.parent.chmod(0), False),
}  # fmt: skip


def start(user: User, request: StartRequest, folder: Path) -> launching.Outcome:
    snap = launching.snapshot(launching.script(folder, UEP))
    return launching.run(launching.plan(snap, request))


@pytest.mark.parametrize("kind", KINDS)
def test_F5_each_kind_of_log(harper: User, tmp_path: Path, kind: str) -> None:
    """The start ends at once, its stage is named, and nothing outside is touched."""
    make, own = KINDS[kind]
    roots = tmp_path / "roots"
    roots.mkdir(mode=0o777)
    secret = roots / "secret"
    secret.write_text("untouched")
    secret.chmod(0o600)
    request = launching.request(f"{harper.name}@example.org")
    folder = Path(harper.home) / ".globus_compute" / request.name
    folder.mkdir(parents=True)
    give(harper, folder.parent, folder)
    log = folder / "endpoint.log"
    make(log, secret)
    if own:
        give(harper, log)
    reader = os.open(log, os.O_RDONLY | os.O_NONBLOCK) if kind.endswith("read") else -1
    begun = time.monotonic()
    outcome = start(harper, request, tmp_path)
    assert outcome.failed is not None, kind
    assert (outcome.failed.stage, outcome.code) == ("LOG", int(Stage.LOG))
    assert str(log) in outcome.failed.reason and str(log) not in outcome.failed.public
    assert time.monotonic() - begun < 20
    assert secret.read_text() == "untouched" and [p.name for p in roots.iterdir()] == ["secret"]
    if reader >= 0:
        assert os.read(reader, 10) == b""
        os.close(reader)
    folder.chmod(0o700)


@pytest.mark.parametrize("kind", ["missing", "a file", "a FIFO", "a dangling link", "not to enter"])
@pytest.mark.parametrize("parent", ["the system's", "everybody's"])
def test_F5_each_kind_of_home(
    harper: User, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, parent: str
) -> None:
    """Nobody is made a home, not even where everybody may."""
    place = tmp_path / "homes"
    place.mkdir()
    for folder in (place, *place.parents):
        if folder.stat().st_uid == 0 and folder != Path("/"):
            folder.chmod(folder.stat().st_mode | 0o055)
    place.chmod(0o1777 if parent == "everybody's" else 0o755)
    home = place / "home"
    account = dataclasses.replace(accounts.lookup(harper.name), home=str(home))
    monkeypatch.setattr(accounts, "lookup", lambda _: account)
    if kind == "a file":
        home.touch()
    elif kind == "a FIFO":
        os.mkfifo(home)
    elif kind == "a dangling link":
        home.symlink_to(place / "nowhere")
    elif kind == "not to enter":
        home.mkdir(mode=0o700)
    before = sorted(p.name for p in place.iterdir())
    outcome = start(harper, launching.request(f"{harper.name}@example.org"), tmp_path)
    assert outcome.failed is not None
    assert (outcome.failed.stage, outcome.code) == ("CONFIG", int(Stage.CONFIG))
    assert str(home) in outcome.failed.reason and str(home) not in outcome.failed.public
    assert sorted(p.name for p in place.iterdir()) == before


@pytest.mark.parametrize("kind", ["a file", "a FIFO", "a dangling link", "a link to root's"])
def test_F5_each_kind_of_folder(tmp_path: Path, kind: str) -> None:
    need_root()
    user = make_user()
    roots = tmp_path / "roots"
    roots.mkdir(mode=0o755)
    try:
        place = Path(user.home) / ".globus_compute"
        if kind == "a file":
            place.touch()
        elif kind == "a FIFO":
            os.mkfifo(place)
        elif kind == "a dangling link":
            place.symlink_to(tmp_path / "nowhere")
        else:
            place.symlink_to(roots)
        give(user, place)
        outcome = start(user, launching.request(f"{user.name}@example.org"), tmp_path)
        assert outcome.failed is not None and outcome.failed.stage == "CONFIG", outcome.failed
        assert not list(roots.iterdir()) and not (tmp_path / "nowhere").exists()
    finally:
        remove_user(user)


def test_F3_a_user_at_the_limit_of_pipes(harper: User, tmp_path: Path) -> None:
    """A pipe of theirs holds a page or two by now; a document of 1 MB is there whole."""
    limit = int(Path("/proc/sys/fs/pipe-user-pages-soft").read_text())
    wanted = limit // 16 + 20
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    if limit == 0 or 2 * wanted + 100 > hard:
        pytest.skip("no such limit here")
    ready, tell = os.pipe()
    pid = os.fork()
    if not pid:
        try:
            descriptors.close_all_but([0, 1, 2, tell])
            resource.setrlimit(resource.RLIMIT_NOFILE, (2 * wanted + 100, hard))
            os.setgroups([])
            os.setresgid(harper.gid, harper.gid, harper.gid)
            os.setresuid(harper.uid, harper.uid, harper.uid)
            pipes = [os.pipe() for _ in range(wanted)]
            os.write(tell, b"%d" % fcntl.fcntl(pipes[-1][0], fcntl.F_GETPIPE_SZ))
            time.sleep(600)
        finally:
            os._exit(1)
    os.close(tell)
    try:
        assert int(os.read(ready, 20)) <= 8192, "the limit was reached"
        text = launching.TEMPLATE + "".join(f"# {'x' * 70}\n" for _ in range(14300))
        assert len(text) > 1_000_000
        snap = launching.snapshot(launching.script(tmp_path, UEP), template=text)
        request = launching.request(f"{harper.name}@example.org")
        launch = launching.Launch(launching.plan(snap, request))
        try:
            outcome = launch.stages()
            assert outcome.failed is None, outcome.failed
            document = json.loads(launch.notify_all())
            assert launch.wait().code == 0
        finally:
            launch.close()
        assert document["config"] == text.rstrip("\n")
    finally:
        os.kill(pid, 9)
        os.waitpid(pid, 0)
        os.close(ready)
