"""One worker process: its start, its socket, its end."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from typing import Any

from mepd.uep.amqp import IOLoop

from mepd.errors import WireError
from mepd.posix.ended import has_ended
from mepd.uep import failures
from mepd.uep.engines import frames
from mepd.uep.engines.base import EngineTask

START_TIME = 120.0
"""Seconds for a process to say that it is ready: for one that is stopped or hangs, not for one
whose packages come from a slow disk."""
_CHUNK = 256 * 1024
_CHUNKS_LEFT = 4096
"""Reads of what a worker that has ended has left, were a descendant to write without end."""


class WorkerProcess:
    """Holds the tasks that were handed to it, by id; ``slots`` says how many it takes.

    ``on_frame`` is called for every frame, in the loop. Its end is noticed by reap(),
    since a descendant may hold the socket open longer. It leads a process group, and what
    is in that group ends with it, as does one that the owner has not called ``started``
    within ``patience`` seconds. Raises OSError if it cannot start.
    """

    def __init__(
        self,
        loop: IOLoop,
        setup: dict[str, Any],
        on_frame: Callable[[WorkerProcess, frames.Frame], None],
        module: str = "mepd.uep.worker",
        body: bytes = b"",
        patience: float = START_TIME,
    ) -> None:
        """``setup`` and ``body`` are the first frame that ``module`` is sent."""
        self.tasks: dict[str, EngineTask] = {}
        self.slots: int = setup["threads"]
        self.ready = False
        self._loop = loop
        self._on_frame = on_frame
        self._input = frames.FrameBuffer()
        self._output = bytearray()
        self._watched = 0
        self._why = ""
        self._timer: object | None = None
        self._sock, self._process = self._spawn(module)
        self._sock.setblocking(False)
        self._fd = self._sock.fileno()
        self._watch(IOLoop.READ)
        self._timer = loop.call_later(patience, lambda: self._on_late(failures.NOT_READY))
        self.send(frames.Frame(frames.SETUP, setup, body))

    def _spawn(self, module: str) -> tuple[socket.socket, subprocess.Popen[bytes]]:
        ours, theirs = socket.socketpair()
        fd = theirs.fileno()
        argv = [sys.executable, "-P", "-m", module, str(fd), str(os.getpid())]
        try:
            process = subprocess.Popen(
                argv, stdin=subprocess.DEVNULL, pass_fds=(fd,), process_group=0
            )
        except OSError:
            ours.close()
            raise
        finally:
            theirs.close()
        return ours, process

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def free(self) -> int:
        """How many more tasks it can run now."""
        return max(0, self.slots - len(self.tasks)) if self.ready and self._watched else 0

    def how(self, status: int) -> str:
        """How it ended, for the user; ``status`` is what poll() returned."""
        return self._why or failures.exit_text(status)

    def started(self) -> None:
        """It has said that it is ready."""
        self.ready = True
        self._forget_timer()

    def hand(self, *tasks: EngineTask, resources: dict[str, Any] | None = None) -> None:
        """Send it tasks, with ``resources`` that they are to run with."""
        packed = []
        for task in tasks:
            self.tasks[task.task_id] = task
            header: dict[str, Any] = {"id": task.task_id, "serializers": list(task.serializers)}
            if resources:
                header["resources"] = resources
            packed.append(frames.pack(frames.Frame(frames.TASK, header, task.body)))
        self._write(b"".join(packed))

    def send(self, frame: frames.Frame) -> None:
        self._write(frames.pack(frame))

    def _watch(self, events: int) -> None:
        if events == self._watched:
            return
        if not self._watched:
            self._loop.add_handler(self._fd, self._on_event, events)
        elif not events:
            self._loop.remove_handler(self._fd)
        else:
            self._loop.update_handler(self._fd, events)
        self._watched = events

    def _write(self, data: bytes) -> None:
        if not self._watched:
            return
        sent = 0
        if not self._output:
            try:
                sent = self._sock.send(data)
            except BlockingIOError:
                pass
            except OSError:
                self._deaf()
                return
        if sent < len(data):
            self._output += data[sent:]
            self._watch(IOLoop.READ | IOLoop.WRITE)

    def _on_event(self, _fd: int, events: int) -> None:
        if events & IOLoop.WRITE and self._output:
            self._flush()
        if events & ~IOLoop.WRITE:
            self._read()

    def _flush(self) -> None:
        try:
            del self._output[: self._sock.send(memoryview(self._output)[:_CHUNK])]
        except BlockingIOError:
            return
        except OSError:
            self._deaf()
            return
        if not self._output:
            self._watch(IOLoop.READ)

    def _deaf(self) -> None:
        """It reads no more. What it has said may still wait to be read, and then its end."""
        self.ready = False
        self._output.clear()
        self._watch(IOLoop.READ)

    def _read(self) -> bool:
        """Handle the frames of one read; False if there was nothing to read.

        The end of the stream, or a frame that is none, is the end of the worker.
        """
        whole: list[frames.Frame] = []
        try:
            data = self._sock.recv(_CHUNK)
            whole.extend(self._input.feed(data))
        except BlockingIOError:
            return False
        except (OSError, WireError):
            data = b""
        for frame in whole:
            self._on_frame(self, frame)
        if not data:
            self._lose_stream()
        return True

    def _lose_stream(self) -> None:
        """Closed or broken: it is about to end, and tells why, or is killed before long."""
        self._watch(0)
        self._forget_timer()
        self._timer = self._loop.call_later(
            failures.ENDING_TIME, lambda: self._on_late(failures.HUNG_UP)
        )

    def _on_late(self, why: str) -> None:
        self._timer = None
        if not self._ended():
            self._why = why
            self.kill()

    def poll(self) -> int | None:
        """Popen.returncode once it has ended, after every result it sent was handled."""
        if self._process.returncode is None:
            if not self._ended():
                return None  # one that ends at this moment is looked at again: SIGCHLD follows
            self._kill_group()
        status = self._process.poll()
        if status is not None:
            for _ in range(_CHUNKS_LEFT):
                if not self._watched or not self._read():
                    break
            self.close()
        return status

    def _forget_timer(self) -> None:
        if self._timer is not None:
            self._loop.remove_timeout(self._timer)
            self._timer = None

    def _ended(self) -> bool:
        """Whether it waits to be reaped, which keeps its pid, and so its group's, its own."""
        return self._process.returncode is None and has_ended(self.pid)

    def _kill_group(self) -> None:
        """And the process itself, which may have left its group (setpgid(2))."""
        for send in (os.killpg, os.kill):
            with contextlib.suppress(ProcessLookupError, PermissionError):
                send(self.pid, signal.SIGKILL)

    def kill(self) -> None:
        """SIGKILL to it and to its group; reap() learns of the end."""
        self._watch(0)
        self._forget_timer()
        if self._process.returncode is None:
            self._kill_group()

    def dismiss(self) -> None:
        """End of file to it: a process that has something to put in order does so, and ends."""
        with contextlib.suppress(OSError):
            self._sock.shutdown(socket.SHUT_WR)

    def wait(self, timeout: float) -> bool:
        """Whether it has ended within ``timeout`` seconds. Its frames are not read any more."""
        try:
            self._process.wait(timeout)
        except subprocess.TimeoutExpired:
            return False
        return True

    def close(self) -> None:
        self._watch(0)
        self._forget_timer()
        self._sock.close()

    def end(self) -> None:
        """Kill it and wait for its end, which SIGKILL makes short."""
        self.kill()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(2)
        self._sock.close()
