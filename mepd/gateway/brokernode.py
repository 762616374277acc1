"""A private RabbitMQ node for the gateway: its configuration files, and its start.

The node asks the gateway about every account but the gateway's own, which is in the
node's internal backend; see mepd-gateway(8) for the same lines in another broker.
"""

from __future__ import annotations

import base64
import contextlib
import glob
import hashlib
import json
import os
import random
import secrets
import signal
import socket
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

import click

from mepd.errors import ConfigError, MepdError
from mepd.gateway import keys
from mepd.gateway.config import read_credentials
from mepd.gateway.names import CONSUMER_TIMEOUT_MS
from mepd.gateway.urls import split
from mepd.posix.process import die_with_parent

SERVER_GLOB = "/usr/lib/rabbitmq/lib/rabbitmq_server-*/sbin/rabbitmq-server"
PLUGINS = ("rabbitmq_auth_backend_cache", "rabbitmq_auth_backend_http")
EPMD_TIMEOUT_S = 10.0

_CONF = """\
# written by mepd-gateway broker-config
listeners.tcp.1 = {host}:{port}
loopback_users = none
definitions.import_backend = local_filesystem
definitions.local.path = {dir}/definitions.json
disk_free_limit.absolute = 50MB
log.console = true
log.console.level = warning
log.file = false
# acknowledgements of tasks come when their results are safe, so they may come late
consumer_timeout = {consumer_timeout}
# well above the largest task and result
max_message_size = 67108864
# the gateway's own account is internal, all others are the gateway's to judge
auth_backends.1 = internal
auth_backends.2 = cache
auth_cache.cached_backend = http
auth_cache.cache_ttl = 10000
auth_http.http_method = post
auth_http.user_path = {gateway}/rabbitmq/user
auth_http.vhost_path = {gateway}/rabbitmq/vhost
auth_http.resource_path = {gateway}/rabbitmq/resource
auth_http.topic_path = {gateway}/rabbitmq/topic
"""


@dataclass(frozen=True)
class Node:
    """``epmd_port`` and ``dist_port`` are Erlang's own; all listen on ``host``."""

    directory: Path
    port: int
    epmd_port: int
    dist_port: int
    gateway: str
    host: str = "127.0.0.1"


def password_hash(password: str, salt: bytes) -> str:
    """RabbitMQ's rabbit_password_hashing_sha256."""
    return base64.b64encode(salt + hashlib.sha256(salt + password.encode()).digest()).decode()


def rabbitmq_conf(node: Node) -> str:
    return _CONF.format(
        host=node.host,
        port=node.port,
        dir=node.directory,
        gateway=node.gateway.rstrip("/"),
        consumer_timeout=CONSUMER_TIMEOUT_MS,
    )


def definitions(username: str, password: str) -> dict[str, object]:
    """The vhost and the gateway's account; an import leaves out the default guest."""
    return {
        "users": [
            {
                "name": username,
                "password_hash": password_hash(password, secrets.token_bytes(4)),
                "hashing_algorithm": "rabbit_password_hashing_sha256",
                "tags": ["administrator"],
            }
        ],
        "vhosts": [{"name": "/"}],
        "permissions": [
            {"user": username, "vhost": "/", "configure": ".*", "write": ".*", "read": ".*"}
        ],
    }


def environment(node: Node) -> dict[str, str]:
    """The whole environment of the node's programs."""
    base = str(node.directory)
    return {
        "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
        "HOME": base,
        "LANG": "C.UTF-8",
        "ERL_EPMD_PORT": str(node.epmd_port),
        "ERL_EPMD_ADDRESS": node.host,
        "RABBITMQ_NODENAME": f"mepd{node.port}@localhost",
        "RABBITMQ_DIST_PORT": str(node.dist_port),
        "RABBITMQ_MNESIA_BASE": f"{base}/mnesia",
        "RABBITMQ_LOG_BASE": f"{base}/log",
        "RABBITMQ_CONFIG_FILE": f"{base}/rabbitmq.conf",
        "RABBITMQ_CONF_ENV_FILE": f"{base}/rabbitmq-env.conf",
        "RABBITMQ_ENABLED_PLUGINS_FILE": f"{base}/enabled_plugins",
        "RABBITMQ_PID_FILE": f"{base}/pid",
        # the server's script then execs instead of forking: one process, one pid
        "RUNNING_UNDER_SYSTEMD": "1",
        # epmd is started beside it; schedulers sleep when there is nothing to do
        "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": (
            "-start_epmd false +sbwt none +sbwtdcpu none +sbwtdio none"
        ),
    }


def _write(path: Path, text: str, mode: int = 0o600) -> None:
    """Replace the file in one step, never readable by others meanwhile."""
    draft = path.with_name(path.name + ".new")
    draft.unlink(missing_ok=True)
    fd = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, mode)
    with os.fdopen(fd, "w") as file:
        file.write(text)
    draft.replace(path)


def write_node(node: Node, credentials: Path) -> None:
    """Write the node's files; makes ``credentials`` if it does not exist.

    Raises ConfigError, OSError.
    """
    node.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    if not credentials.exists():
        made = {"username": "mepd-gateway", "password": keys.new_secret()}
        _write(credentials, json.dumps(made) + "\n")
    username, password = read_credentials(credentials)
    _write(node.directory / "rabbitmq.conf", rabbitmq_conf(node))
    _write(node.directory / "enabled_plugins", f"[{','.join(PLUGINS)}].\n")
    text = json.dumps(definitions(username, password), indent=1) + "\n"
    _write(node.directory / "definitions.json", text)
    _write(node.directory / "node.json", json.dumps(environment(node), indent=1) + "\n")


def free_ports(count: int) -> list[int]:
    """TCP ports of the loopback that are free now.

    They are below the range that the kernel gives to outgoing connections (32768 and up),
    which could take a port between the probe and its use.
    """
    found: list[int] = []
    while len(found) < count:
        port = random.randrange(20000, 32000)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            if port not in found:
                found.append(port)
    return found


def _reachable(host: str, port: int) -> bool:
    try:
        socket.create_connection((host, port), 1).close()
        return True
    except OSError:
        return False


def _start_epmd(environ: dict[str, str]) -> None:
    """Erlang's port mapper as a child that dies with the node. Raises MepdError."""
    port, address = environ["ERL_EPMD_PORT"], environ["ERL_EPMD_ADDRESS"]
    parent = os.getpid()
    process = subprocess.Popen(
        ["epmd", "-port", port, "-address", address],
        env=environ,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        preexec_fn=lambda: die_with_parent(parent, signal.SIGKILL),
    )
    deadline = time.monotonic() + EPMD_TIMEOUT_S
    while not _reachable(address, int(port)):
        if process.poll() is not None or time.monotonic() > deadline:
            raise MepdError(f"epmd does not listen at {address}:{port}")
        time.sleep(0.02)


@click.command("broker-config")
@click.option("--dir", "directory", type=click.Path(path_type=Path), required=True)
@click.option("--port", type=click.IntRange(0, 65535), default=0, help="0: a free one.")
@click.option("--gateway", required=True, help="The gateway's URL as the broker reaches it.")
@click.option(
    "--credentials",
    type=click.Path(path_type=Path),
    required=True,
    help="JSON file of the gateway's account, made if missing.",
)
def broker_config(directory: Path, port: int, gateway: str, credentials: Path) -> None:
    """Write the files of a private RabbitMQ node; prints its port."""
    url = split(gateway)
    if url is None or url.scheme not in ("http", "https") or not url.hostname:
        raise ConfigError("--gateway must be an http or https URL")
    chosen, epmd, dist = free_ports(3)
    node = Node(directory.absolute(), port or chosen, epmd, dist, gateway)
    write_node(node, credentials.absolute())
    click.echo(str(node.port))


@click.command("broker")
@click.option("--dir", "directory", type=click.Path(path_type=Path), required=True)
def broker(directory: Path) -> None:
    """Become the RabbitMQ node that broker-config has written (exec)."""
    scripts = sorted(glob.glob(SERVER_GLOB))
    if not scripts:
        raise MepdError("rabbitmq-server is not installed")
    try:
        environ = json.loads((directory / "node.json").read_text())
    except ValueError:
        raise ConfigError("not JSON", str(directory / "node.json")) from None
    _start_epmd(environ)
    os.chdir(directory)
    os.execve(scripts[-1], [scripts[-1]], environ)
