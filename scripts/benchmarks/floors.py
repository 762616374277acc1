"""What no manager can be faster or smaller than."""

from __future__ import annotations

import contextlib
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pika
import psutil
from rabbit import Rabbit

from benchmarks.service import Service
from tests.conftest import User

# Runs the interpreter that it is, argv[1] times one below the other.
_NESTED = """
import subprocess, sys
depth = int(sys.argv[1])
if depth:
    subprocess.run([sys.executable, "-I", "-c", sys.argv[2], str(depth - 1), sys.argv[2]])
"""
_STAYS = "import os, time; os.write(1, b'.'); time.sleep(600)"
_ECHO = """
import socket, sys
with socket.socket(fileno=int(sys.argv[1])) as s:
    while data := s.recv(65536):
        s.sendall(data)
"""


def _as(user: User) -> dict[str, Any]:
    return {"user": user.uid, "group": user.gid, "extra_groups": [], "cwd": "/", "env": {}}


def run_as(user: User) -> float:
    """Seconds to fork, become ``user``, and run an interpreter that does nothing."""
    return run_all_as([user])[0]


def run_all_as(users: Sequence[User]) -> list[float]:
    """The same for all users at once: when each was through."""
    began = time.monotonic()
    argv = [sys.executable, "-I", "-c", "pass"]
    found = []
    for process in [subprocess.Popen(argv, **_as(user)) for user in users]:
        process.wait()
        found.append(time.monotonic() - began)
    return found


def nested(user: User, depth: int) -> float:
    """Seconds for a bare interpreter as ``user`` that runs another, ``depth`` in all."""
    began = time.monotonic()
    argv = [sys.executable, "-I", "-c", _NESTED, str(depth - 1), _NESTED]
    subprocess.run(argv, check=True, **_as(user))
    return time.monotonic() - began


@contextlib.contextmanager
def interpreters(users: Sequence[User]) -> Iterator[list[psutil.Process]]:
    """A bare one for each user, that stays until it is told to end."""
    argv = [sys.executable, "-I", "-c", _STAYS]
    made = [subprocess.Popen(argv, stdout=subprocess.PIPE, **_as(user)) for user in users]
    try:
        for process in made:
            assert process.stdout is not None and process.stdout.read(1), "no interpreter"
        yield [psutil.Process(process.pid) for process in made]
    finally:
        for process in made:
            process.kill()
            process.wait()
            assert process.stdout is not None
            process.stdout.close()


def stop(users: Sequence[User]) -> float:
    """Seconds to end such an interpreter of each user."""
    with interpreters(users) as processes:
        began = time.monotonic()
        for process in processes:
            process.send_signal(signal.SIGTERM)
        psutil.wait_procs(processes, 20)
        return time.monotonic() - began


def pika_round_trips(rabbit: Rabbit, count: int) -> list[float]:
    """Seconds for a message to the broker and back twice, as a task and its result go."""
    found = []
    connection = rabbit.connect()
    channel = connection.channel()
    queue = channel.queue_declare("", exclusive=True).method.queue
    messages = channel.consume(queue, auto_ack=True)
    for _ in range(count):
        began = time.monotonic()
        for _there_and_back in range(2):
            channel.basic_publish("", queue, b"x" * 500, pika.BasicProperties(delivery_mode=2))
            next(messages)
        found.append(time.monotonic() - began)
    channel.cancel()
    connection.close()
    return found


@contextlib.contextmanager
def echo(service: Service) -> Iterator[tuple[str, psutil.Process]]:
    """A process that answers tasks and does nothing else (echo.py), and its UEP's id."""
    uep_id = service.new_uep()
    argv = [sys.executable, Path(__file__).with_name("echo.py"), service.url, f"{uep_id}.tasks"]
    process = subprocess.Popen([*argv, service.exchange, "result"])
    try:
        service.results_of(service.send_tasks(uep_id, 1))
        yield uep_id, psutil.Process(process.pid)
    finally:
        process.kill()
        process.wait()


def socket_round_trips(count: int) -> list[float]:
    """Seconds for a hundred bytes to another process and back, by a socket."""
    ours, theirs = socket.socketpair()
    argv = [sys.executable, "-I", "-c", _ECHO, str(theirs.fileno())]
    with subprocess.Popen(argv, pass_fds=[theirs.fileno()]), ours:
        theirs.close()
        found = []
        for _ in range(count):
            began = time.monotonic()
            ours.sendall(b"x" * 100)
            ours.recv(65536)
            found.append(time.monotonic() - began)
        ours.shutdown(socket.SHUT_RDWR)
    return found[1:]  # the first has waited for the interpreter
