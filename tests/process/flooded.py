"""A master one of whose inner borders is flooded; prints how late its loop is, as JSON.

``python -m tests.process.flooded BORDER FRAMES FOLDER``. The master is mepd's own, with its
log and its control socket; the peer at the border is a process that says as fast as it can
what an honest one could say, whether true or not, and then what no honest one says.
"""

from __future__ import annotations

import json
import os
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mepd import log as mepdlog
from mepd.config import folder, ini
from mepd.config.launchplan import CredentialFile
from mepd.master import spawner, supervisor
from mepd.master.logs import LogWriter
from mepd.master.reports import Reports
from mepd.posix import accounts, descriptors, process
from mepd.posix.notify import Notifier
from mepd.wire import codec, start_request
from mepd.wire import worker as wire
from mepd.wire.activity import ActivityReport
from mepd.wire.framing import encode_frame
from mepd.wire.stages import Failed, Mapped
from tests.root.launching import MEP, request

_EVERY = 0.005
_LONGEST = 600.0
Sock = socket.socket
CONF = """\
[mepd]
logfile = %(here)s/mepd.log
pidfile = %(here)s/mepd.pid
user = nobody
[control]
file = %(here)s/mepd.sock
[service]
url = http://127.0.0.1:9
[endpoint:test]
directory = endpoint
"""


def frames(*messages: Any) -> bytes:
    return b"".join(encode_frame(codec.encode(m)) for m in messages)


def pour(sock: Sock, first: bytes, block: bytes, times: int) -> None:
    sock.sendall(first)
    together = max(1, 65536 // len(block))
    for _ in range(times // together):
        sock.sendall(block * together)
    sock.sendall(block * (times % together))
    sock.sendall(encode_frame(None))  # which nobody says: the master has read all before it
    while sock.recv(65536):
        pass


def consumer(sock: Sock, count: int, _conf: str) -> None:
    """Each kind of message, about endpoints that there are and are not."""
    asked = start_request.to_json(request("harper@example.org"))
    said: list[Any] = [wire.Pong(), wire.NoticeDone("n1", False, "no")]
    said.append(wire.OwnIdentities("test", []))
    for name in ("test", "another"):
        said += [
            wire.EndpointRegistered(name, MEP), wire.EndpointOnline(name, True),
            wire.EndpointOnline(name, False, "gone"), wire.RequestRefused(name, "malformed"),
            wire.RegistrationFailed(name, "no", False), wire.StartRequested("t", name, {}),
        ]  # fmt: skip
    said.append(wire.StartRequested("t", "another", asked))
    pour(sock, frames(wire.Ready()), frames(*said), count // len(said))


def large(sock: Sock, count: int, _conf: str) -> None:
    """Few frames, as long as they may be."""
    reasons = [wire.EndpointOnline("test", False, text * 1_000_000) for text in (" \n", "a://b")]
    pour(sock, frames(wire.Ready()), frames(*reasons), count // 5000)


def watcher(sock: Sock, count: int, conf: str) -> None:
    said = (wire.Changed([conf, "/etc/passwd"]), wire.Validated("v7", "bad"), wire.Pong())
    pour(sock, frames(wire.Ready()), frames(*said), count // len(said))


def stderr(sock: Sock, count: int, _conf: str) -> None:
    sock.sendall(frames(wire.Ready()))
    line = json.dumps({"level": "ERROR", "message": "password=x", "title": "t"}).encode() + b"\n"
    for _ in range(count // 50):
        os.write(2, line * 49 + b"\xff\n")


def stages(stages_: Sock, _notify: Sock, count: int) -> None:
    said = Failed("CHDIR", 84, "no such folder", "no")
    pour(stages_, frames(Mapped("nobody", 65534, 65534, "i")), frames(said), count)


def reports(stages_: Sock, notify: Sock, count: int) -> None:
    said = ActivityReport(1, 0, 1, 0.0, 10, 5760, 30.0)
    pour(notify, b"", frames(said), count)


def askers(path: Path, count: int) -> int:
    """Requests at the control socket, each on its own connection."""
    asked = encode_frame({"v": 1, "verb": "status", "args": {}})
    for _ in range(count):
        with socket.socket(socket.AF_UNIX) as sock:
            sock.connect(str(path))
            sock.sendall(asked)
            while sock.recv(65536):
                pass
    return 0


class Flooded:
    """The master, and the lags of its loop since the flood began."""

    def __init__(self, where: Path) -> None:
        self.lags: list[float] = []
        settings = ini.load(_configure(where), {})
        snapshots = [folder.load(e.name, e.directory, True) for e in settings.endpoints]
        writer = LogWriter(settings.mepd)
        mepdlog.configure("mepd: master", [writer])
        account = accounts.lookup("nobody")
        self.master = supervisor.Supervisor(
            settings, snapshots, account, False, Notifier({}), writer
        )
        self.conf = str(settings.path)
        self._writer = writer

    def run(self, begin: Callable[[], None], over: Callable[[], bool]) -> None:
        """``begin`` when the master is at rest; until ``over``."""
        loop = self.master.loop

        def tick(due: float) -> None:
            self.lags.append(loop.clock() - due)
            if over() or loop.clock() > _LONGEST + self._begun:
                loop.stop()
            again()

        def again() -> None:
            due = loop.clock() + _EVERY
            loop.call_later(_EVERY, lambda: tick(due))

        def flood() -> None:
            self._begun = loop.clock()
            begin()
            again()

        loop.call_later(2.0, flood)
        self.master.run(on_terminal=False)
        self.master.emergency()
        self._writer.close()

    def result(self) -> dict[str, Any]:
        lags = sorted(self.lags)
        worst = {name: lags[int(len(lags) * part)] for name, part in (("p50", 0.5), ("p99", 0.99))}
        milliseconds = {k: round(v * 1000, 1) for k, v in {**worst, "max": lags[-1]}.items()}
        return {"turns": len(lags), **milliseconds}


def _configure(where: Path) -> Path:
    endpoint = where / "endpoint"
    endpoint.mkdir(mode=0o700)
    rules = [{"source": "{username}", "match": "(.*)@example.org", "output": "{0}"}]
    mapping = [{"DATA_TYPE": "expression_identity_mapping#1.0.0", "mappings": rules}]
    (endpoint / "mapping.json").write_text(json.dumps(mapping))
    (endpoint / "config.yaml").write_text("identity_mapping_config_path: mapping.json\n")
    (endpoint / "user_config_template.yaml.j2").write_text("engine: {type: ThreadPoolEngine}\n")
    (endpoint / "endpoint.json").write_text(json.dumps({"endpoint_id": MEP}))
    conf = where / "mepd.conf"
    conf.write_text(CONF)
    return conf


def _workers(hostile: str, life: Callable[[Sock], None]) -> Any:
    """Instead of spawner.worker: the ``hostile`` one lives ``life``, the others are mute."""
    master = os.getpid()

    def worker(title: str, *_: Any) -> spawner.Spawned:
        ours, theirs = socket.socketpair()
        reader, writer = os.pipe2(os.O_CLOEXEC)

        def child() -> int:
            spawner._detach(title, {1: writer, 2: writer}, [theirs.fileno()])
            process.die_with_parent(master)
            if title == f"mepd: {hostile}":
                time.sleep(2.1)
                life(theirs)
            else:
                time.sleep(_LONGEST)
            return 0

        pid = process.fork(child)
        theirs.close()
        os.close(writer)
        return spawner.Spawned(pid, ours, reader)

    return worker


def _launch(life: Callable[[Sock, Sock, int], None], count: int) -> Any:
    """Instead of spawner.launch: children that say what they like."""
    master = os.getpid()

    def launch(*_: Any, **__: Any) -> spawner.Launched:
        stage, notify = socket.socketpair(), socket.socketpair()

        def child() -> int:
            descriptors.close_all_but([0, 1, 2, stage[1].fileno(), notify[1].fileno()])
            process.die_with_parent(master)
            life(stage[1], notify[1], count)
            return 0

        pid = process.fork(child)
        stage[1].close()
        notify[1].close()
        file = CredentialFile(descriptors.memory_file("test"), "k")
        return spawner.Launched(pid, stage[0], notify[0], None, file)

    return launch


def flood_workers(flooded: Flooded, border: str, count: int) -> None:
    name, life = {
        "consumer": ("amqp-consumer", consumer), "large": ("amqp-consumer", large),
        "watcher": ("config-watcher", watcher), "stderr": ("amqp-consumer", stderr),
    }[border]  # fmt: skip
    spawner.worker = _workers(name, lambda sock: life(sock, count, flooded.conf))
    (one,) = [w for w in flooded.master.workers if w.name == name]
    flooded.run(lambda: None, lambda: one.restarts > 0)


def flood_starts(flooded: Flooded, border: str, count: int) -> None:
    """Each in its turn; a user endpoint is not listened to for longer than it may speak."""
    each = min(count, int(Reports.BURST) + 100)
    life, number = (reports, count // each) if border == "reports" else (stages, 1)
    spawner.worker = _workers("", lambda sock: None)
    spawner.launch = _launch(life, each if border == "reports" else count)
    asked = [start_request.to_json(request("harper@example.org")) for _ in range(number)]
    table = flooded.master.table

    def begin() -> None:
        """A fork takes a while, too: one a turn."""
        if asked:
            message = wire.StartRequested(f"t{len(asked)}", "test", asked.pop())
            flooded.master.starts.requested(message)
            flooded.master.loop.call_later(_EVERY, begin)

    flooded.run(begin, lambda: not asked and not len(table))


def flood_control(flooded: Flooded, count: int) -> None:
    spawner.worker = _workers("", lambda sock: None)
    flooded.master.listen()
    path = flooded.master.settings().control.file
    ended: list[int] = []

    def begin() -> None:
        for _ in range(2):
            pid = process.fork(lambda: askers(path, count // 2))
            flooded.master._reaper.watch(pid, ended.append)

    flooded.run(begin, lambda: len(ended) == 2)


def main(border: str, count: int, where: Path) -> None:
    flooded = Flooded(where)
    if border == "control":
        flood_control(flooded, count)
    elif border in ("stages", "reports"):
        flood_starts(flooded, border, count)
    else:
        flood_workers(flooded, border, count)
    print(json.dumps(flooded.result()))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), Path(sys.argv[3]))
