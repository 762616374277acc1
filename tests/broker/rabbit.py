"""A private RabbitMQ node for tests: own folder, own ports, own epmd; nothing of it stays."""

from __future__ import annotations

import glob
import logging
import os
import random
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import uuid
from pathlib import Path
from urllib.parse import quote

import pika
import pika.exceptions

SERVER_GLOB = "/usr/lib/rabbitmq/lib/rabbitmq_server-*/sbin/rabbitmq-server"
ADMIN = "mepd-test"
logging.getLogger("pika").setLevel(logging.CRITICAL)  # refused connections are no news here


def free_port() -> int:
    """A TCP port of the loopback that was free a moment ago, and that the kernel does not
    give to outgoing connections (those are 32768 and up)."""
    while True:
        port = random.randrange(20000, 32000)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
                return port
            except OSError:
                continue


def server_script() -> str | None:
    """The newest installed server script, or None."""
    found = sorted(glob.glob(SERVER_GLOB))
    return found[-1] if found else None


class Rabbit:
    """One private node. ``start``, ``stop`` and ``kill`` may follow each other; the data
    stay until ``remove``.

    ``conf`` is added to rabbitmq.conf, ``plugins`` are enabled. The administrator's
    ``user`` and ``password`` live in the node's internal backend.
    """

    def __init__(self, conf: str = "", plugins: tuple[str, ...] = ()) -> None:
        self.dir = Path(tempfile.mkdtemp(prefix="mepd-rabbit-"))
        self.port = free_port()
        self.user = ADMIN
        self.password = uuid.uuid4().hex
        self._epmd_port = free_port()
        self._dist_port = free_port()
        self._epmd: subprocess.Popen[bytes] | None = None
        self._server: subprocess.Popen[bytes] | None = None
        self.conf = self.dir / "rabbitmq.conf"
        self.write_conf(conf)
        (self.dir / "enabled_plugins").write_text("[" + ",".join(plugins) + "].\n")

    def write_conf(self, extra: str) -> None:
        """The node's own lines and ``extra``; read at the next start."""
        self.conf.write_text(
            f"listeners.tcp.1 = 127.0.0.1:{self.port}\n"
            f"default_user = {self.user}\n"
            f"default_pass = {self.password}\n"
            "loopback_users = none\n"
            "disk_free_limit.absolute = 50MB\n"
            "log.console = true\nlog.console.level = info\nlog.file = false\n" + extra
        )

    def _environ(self) -> dict[str, str]:
        return {
            "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
            "HOME": str(self.dir),
            "LANG": "C.UTF-8",
            "ERL_EPMD_PORT": str(self._epmd_port),
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            "RABBITMQ_NODENAME": f"mepd{self.port}@localhost",
            "RABBITMQ_DIST_PORT": str(self._dist_port),
            "RABBITMQ_MNESIA_BASE": str(self.dir / "mnesia"),
            "RABBITMQ_LOG_BASE": str(self.dir / "log"),
            "RABBITMQ_NODE_PORT": str(self.port),
            "RABBITMQ_CONFIG_FILE": str(self.conf),
            "RABBITMQ_CONF_ENV_FILE": str(self.dir / "rabbitmq-env.conf"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(self.dir / "enabled_plugins"),
            "RABBITMQ_PID_FILE": str(self.dir / "pid"),
            "RUNNING_UNDER_SYSTEMD": "1",  # the script execs: the pid is the node, no wrapper
            # 2 schedulers that sleep when idle: the tests share the machine
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "+S 2:2 +sbwt none +sbwtdcpu none +sbwtdio none",
        }

    @property
    def log(self) -> Path:
        return self.dir / "console.log"

    def url(self, user: str | None = None, password: str | None = None, vhost: str = "/") -> str:
        """An amqp:// URL; without arguments the administrator's."""
        user = self.user if user is None else user
        password = self.password if password is None else password
        account = f"{quote(user, safe='')}:{quote(password, safe='')}"
        return f"amqp://{account}@127.0.0.1:{self.port}/{quote(vhost, safe='')}"

    def connect(self) -> pika.BlockingConnection:
        """A blocking connection as the administrator."""
        return pika.BlockingConnection(pika.URLParameters(self.url()))

    def start(self, timeout: float = 60.0) -> None:
        """Start the node and return when it accepts connections."""
        script = server_script()
        if script is None:
            raise FileNotFoundError(SERVER_GLOB)
        environ = self._environ()
        if self._epmd is None:
            self._epmd = subprocess.Popen(
                ["epmd", "-port", str(self._epmd_port), "-address", "127.0.0.1"],
                env=environ,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
            )
        with self.log.open("ab") as log:
            self._server = subprocess.Popen(
                [script],
                env=environ,
                cwd=self.dir,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self._await_ready(time.monotonic() + timeout)

    def _await_ready(self, deadline: float) -> None:
        assert self._server is not None
        while True:
            if self._server.poll() is not None:
                raise RuntimeError(f"rabbitmq-server ended:\n{self.log.read_text()[-2000:]}")
            try:
                self.connect().close()
                return
            except (OSError, pika.exceptions.AMQPError):
                if time.monotonic() > deadline:
                    self.kill()
                    raise RuntimeError(
                        f"rabbitmq-server not ready:\n{self.log.read_text()[-2000:]}"
                    ) from None
                time.sleep(0.1)

    def running(self) -> bool:
        return self._server is not None and self._server.poll() is None

    def stop(self) -> None:
        """An orderly end of the node; the data stay."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """The end by SIGKILL."""
        self._end(signal.SIGKILL)

    def _end(self, how: signal.Signals) -> None:
        if self._server is None:
            return
        if self._server.poll() is None:
            self._server.send_signal(how)
            try:
                self._server.wait(30)
            except subprocess.TimeoutExpired:
                pass
        try:
            os.killpg(self._server.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        self._server.wait(10)
        self._server = None

    def remove(self) -> None:
        """Stop node and epmd and delete the folder."""
        self.stop()
        if self._epmd is not None:
            self._epmd.kill()
            self._epmd.wait()
            self._epmd = None
        shutil.rmtree(self.dir, ignore_errors=True)
