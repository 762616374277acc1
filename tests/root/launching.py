"""Plays the master for one launch child: real forks, real accounts, no broker."""

from __future__ import annotations

import os
import select
import socket
import sys
import uuid
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from mepd import log as mepdlog
from mepd.config.launchplan import AccountPolicy, LaunchPlan
from mepd.config.settings import EndpointSnapshot
from mepd.master import spawner
from mepd.model import StartRequest
from mepd.wire import codec
from mepd.wire.framing import FrameReader, encode_frame
from mepd.wire.stages import FROM_LAUNCH, Failed, Mapped, SessionOpened, Verdict

MEP = "4ade2ce0-9c00-4d8c-b996-4dff8fbb4bd0"
TEMPLATE = "engine:\n  type: ThreadPoolEngine\nidle_heartbeats_soft: 10\n"


def creds(uep: str) -> dict[str, Any]:
    info = {
        "connection_url": "amqp://u:canary@127.0.0.1:1/%2F", "queue": "q", "exchange": "e",
        "queue_publish_kwargs": {"exchange": "e", "routing_key": "k"},
    }  # fmt: skip
    return {
        "endpoint_id": uep,
        "task_queue_info": info,
        "result_queue_info": info,
        "heartbeat_queue_info": info,
    }


def request(username: str, **changes: Any) -> StartRequest:
    uep = str(uuid.uuid4())
    who = str(uuid.uuid4())
    base = StartRequest(
        name=f"uep.{MEP}.{uep}",
        mep_id=MEP,
        uep_id=uep,
        effective_identity=who,
        username=username,
        identity_set=({"id": who, "sub": who, "username": username, "status": "used"},),
        timestamp=0,
        amqp_creds=creds(uep),
    )
    return replace(base, **changes)


def snapshot(command: tuple[str, ...], **changes: Any) -> EndpointSnapshot:
    base = EndpointSnapshot(
        name="test",
        directory=Path("/nonexistent"),
        endpoint_id=MEP,
        config={},
        template_name="user_config_template.yaml.j2",
        template=TEMPLATE,
        schema=None,
        mappings=(
            {
                "DATA_TYPE": "expression_identity_mapping#1.0.0",
                "mappings": [
                    {"source": "{username}", "match": "(.*)@example.org", "output": "{0}"}
                ],
            },
        ),
        mapping_path=None,
        environment={},
        uep_command=command,
    )
    return replace(base, **changes)


def plan(snap: EndpointSnapshot, req: StartRequest, **changes: Any) -> LaunchPlan:
    base = LaunchPlan(
        snapshot=snap,
        request=req,
        policy=AccountPolicy(min_uid=1000),
        master_pid=os.getpid(),
        privileged=True,
    )
    return replace(base, **changes)


def script(folder: Path, body: str) -> tuple[str, ...]:
    """A program for the UEP's place: Python with this body, readable by everybody."""
    path = folder / "uep.py"
    path.write_text(body)
    for parent in (path, *path.parents):
        if parent.stat().st_uid == os.geteuid() and parent != Path("/"):
            parent.chmod(parent.stat().st_mode | 0o055)
    return (sys.executable, "-I", str(path))


@dataclass
class Outcome:
    """What the master saw of one launch."""

    mapped: Mapped | None = None
    failed: Failed | None = None
    session: SessionOpened | None = None
    status: int | None = None
    messages: list[Any] = field(default_factory=list)

    @property
    def code(self) -> int:
        assert self.status is not None
        return os.waitstatus_to_exitcode(self.status)


class Launch:
    """One launch child under the test's control."""

    def __init__(self, what: LaunchPlan) -> None:
        self.records = mepdlog.RecordChannel()
        self.launched = spawner.launch(what, self.records)
        self.outcome = Outcome()
        self._reader = FrameReader()

    def stages(self, verdict: Verdict = Verdict(True)) -> Outcome:
        """Talk until the stage socket ends."""
        sock = self.launched.stages
        sock.settimeout(60)
        while data := sock.recv(65536):
            for frame in self._reader.feed(data):
                message = codec.decode(frame, FROM_LAUNCH)
                self.outcome.messages.append(message)
                if isinstance(message, Mapped):
                    self.outcome.mapped = message
                    sock.sendall(encode_frame(codec.encode(verdict)))
                elif isinstance(message, Failed):
                    self.outcome.failed = message
                elif isinstance(message, SessionOpened):
                    self.outcome.session = message
        return self.outcome

    def has_spoken(self) -> bool:
        """Whether something of the child's waits to be read."""
        return bool(select.select([self.launched.stages], [], [], 0)[0])

    def stages_until_mapped(self) -> None:
        """Talk until the child has its verdict, and leave it alone then."""
        sock = self.launched.stages
        sock.settimeout(60)
        while self.outcome.mapped is None:
            for frame in self._reader.feed(sock.recv(65536)):
                self.outcome.mapped = codec.decode(frame, (Mapped,))
        sock.sendall(encode_frame(codec.encode(Verdict(True))))

    def wait(self) -> Outcome:
        _, self.outcome.status = os.waitpid(self.launched.pid, 0)
        return self.outcome

    @property
    def uep_pid(self) -> int:
        return self.outcome.session.pid if self.outcome.session else self.launched.pid

    def notify(self, timeout: float = 30) -> bytes:
        """What the UEP writes on its notify socket at first."""
        sock: socket.socket = self.launched.notify
        sock.settimeout(timeout)
        return sock.recv(1 << 20)

    def notify_all(self) -> bytes:
        """All that the UEP writes on its notify socket until it ends."""
        data = b""
        while chunk := self.notify():
            data += chunk
        return data

    def close(self) -> None:
        for sock in (self.launched.stages, self.launched.notify, self.launched.lifeline):
            if sock is not None:
                sock.close()
        os.close(self.launched.file.fd)
        self.records.reader.close()
        self.records.writer.close()


def run(what: LaunchPlan, verdict: Verdict = Verdict(True)) -> Outcome:
    """A launch from fork to the end of the UEP."""
    launch = Launch(what)
    try:
        launch.stages(verdict)
        return launch.wait()
    finally:
        launch.close()
