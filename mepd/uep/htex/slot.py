"""One worker of a pool: a thread that keeps a worker process and hands it tasks."""

from __future__ import annotations

import contextlib
import logging
import math
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from mepd.errors import WireError
from mepd.posix.ended import has_ended
from mepd.uep import failures
from mepd.uep.engines import frames

log = logging.getLogger(__name__)

START_ATTEMPTS = 3
"""Workers that die before they have a task, in a row, until the pool gives up."""
START_TIME = 300.0
"""Seconds for a worker to be ready: all nodes of a job may load it from one disk at once."""
LOOK_EVERY = 1.0
"""Seconds between looks at a worker on whose socket nothing moves."""


@dataclass(frozen=True)
class WorkerPlan:
    """What a worker process is started with."""

    setup: dict[str, Any]
    environment: dict[str, str]
    cores: tuple[int, ...] = ()


@dataclass(frozen=True)
class SlotTask:
    """``number`` is Parsl's id of the task, ``environment`` what its MPI launcher needs."""

    number: int
    task_id: str
    serializers: tuple[str, ...]
    body: bytes = field(repr=False)
    environment: dict[str, str] = field(default_factory=dict)


def _argv(fd: int) -> list[str]:
    """The worker program, from the archive if that is where we are from."""
    archive = sys.argv[0]
    if archive.endswith(".pyz"):
        return [sys.executable, archive, "worker", str(fd), str(os.getpid())]
    return [sys.executable, "-P", "-m", "mepd.uep.worker", str(fd), str(os.getpid())]


class _Line:
    """A worker's socket, on which nobody waits for a worker that has ended: what it forked
    may hold its end open. EOFError then, also ``over`` seconds of time.monotonic()."""

    def __init__(self, sock: socket.socket, pid: int, over: float = math.inf) -> None:
        self._sock, self._pid, self._over = sock, pid, over

    def recv_into(self, buffer: memoryview, /) -> int:
        self._wait(([self._sock], [], []))
        return self._sock.recv_into(buffer)

    def sendall(self, data: bytes) -> None:
        left = memoryview(data)
        while left:
            self._wait(([], [self._sock], []))
            with contextlib.suppress(BlockingIOError):
                left = left[self._sock.send(left, socket.MSG_DONTWAIT) :]

    def _wait(self, what: tuple[list[Any], list[Any], list[Any]]) -> None:
        while not any(select.select(*what, LOOK_EVERY)):
            ended = has_ended(self._pid) and not any(select.select(*what, 0))
            if ended or time.monotonic() > self._over:
                raise EOFError


class Slot(threading.Thread):
    """``take`` returns the next task, ``done(task, packed)`` and ``lost(task, text)`` are
    told of its end; ``unable(text)`` is called when no worker can be started."""

    def __init__(
        self,
        plan: WorkerPlan,
        take: Callable[[], SlotTask],
        done: Callable[[SlotTask, bytes], None],
        lost: Callable[[SlotTask, str], None],
        unable: Callable[[str], None],
    ) -> None:
        super().__init__(daemon=True)
        self.task: SlotTask | None = None
        self._plan = plan
        self._take, self._done, self._lost, self._unable = take, done, lost, unable
        self._process: subprocess.Popen[bytes] | None = None
        self._failed = 0

    def run(self) -> None:
        while self._failed < START_ATTEMPTS:
            try:
                sock = self._start()
            except OSError as e:
                self._start_failed(f"cannot be started: {e.strerror}")
                continue
            with sock:
                self._serve(sock)
        self._unable("the workers die while starting")

    def _start(self) -> socket.socket:
        """Start a worker process. This thread is its parent to the kernel, and stays."""
        ours, theirs = socket.socketpair()
        with theirs:
            try:
                self._process = subprocess.Popen(
                    _argv(theirs.fileno()),
                    stdin=subprocess.DEVNULL,
                    pass_fds=(theirs.fileno(),),
                    env={**os.environ, **self._plan.environment},
                    start_new_session=True,
                )
            except OSError:
                ours.close()
                raise
        if self._plan.cores:
            with contextlib.suppress(OSError):
                os.sched_setaffinity(self._process.pid, self._plan.cores)
        with contextlib.suppress(OSError):
            ours.sendall(frames.pack(frames.Frame(frames.SETUP, self._plan.setup)))
        return ours

    def _start_failed(self, text: str) -> None:
        self._failed += 1
        log.error("worker %s", text)
        time.sleep(self._failed * 0.5)

    def _serve(self, sock: socket.socket) -> None:
        """Hand tasks to the worker for as long as it lives."""
        if not self._is_ready(sock):
            self._start_failed(f"{self._end(failures.NOT_READY)} while starting")
            return
        assert self._process is not None
        while True:
            task = self.task = self.task or self._take()
            if has_ended(self._process.pid):  # before the task, which is the next one's
                self._start_failed(f"{self._end()} before it had a task")
                return
            self._failed = 0
            packed = self._run(sock, task)
            self.task = None
            if packed is not None:
                self._done(task, packed)
            else:
                text = failures.lost_worker(self._end())
                log.warning("%s: %s", task.task_id, text)
                self._lost(task, text)
                return

    def _run(self, sock: socket.socket, task: SlotTask) -> bytes | None:
        """The packed result; None if the worker died."""
        header: dict[str, Any] = {"id": task.task_id, "serializers": list(task.serializers)}
        if task.environment:
            header["environment"] = task.environment
        assert self._process is not None
        line = _Line(sock, self._process.pid)
        try:
            line.sendall(frames.pack(frames.Frame(frames.TASK, header, task.body)))
            return frames.read(line).body
        except (EOFError, OSError, WireError):
            return None

    def _is_ready(self, sock: socket.socket) -> bool:
        """Whether the worker has said so, within START_TIME."""
        assert self._process is not None
        try:
            frames.read(_Line(sock, self._process.pid, time.monotonic() + START_TIME))
        except (EOFError, OSError, WireError):
            return False
        return True

    def _end(self, why: str = failures.HUNG_UP) -> str:
        """How the worker ended, once it has, and what it left in its group; ``why`` it is
        killed if it has not.

        Until it is waited for, its pid, and so its group's, is its own.
        """
        assert self._process is not None
        over = time.monotonic() + failures.ENDING_TIME
        while not (ended := has_ended(self._process.pid)) and time.monotonic() < over:
            time.sleep(0.01)
        self.kill()
        status = self._process.wait()
        return failures.exit_text(status) if ended else why

    def kill(self) -> None:
        process = self._process
        if process is None or process.returncode is not None:
            return
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
