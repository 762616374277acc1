"""The worker program: runs tasks for a UEP, in one thread or several.

Started as ``python -P -m mepd.uep.worker FD PARENT_PID``. It speaks engines/frames on
the descriptor: SETUP in, READY out, then TASK in and RESULT out until the end of file.
Idle threads take turns at reading, so that a task needs no hand-over between threads.
"""

from __future__ import annotations

import io
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mepd.uep.engines import frames

# Of our own: a task may have put others into their modules.
_exit, _getpid = os._exit, os.getpid
Run = Callable[[str, bytes, list[str]], bytes]


class Server:
    """Serves tasks from ``sock`` until its end, which ends the process."""

    def __init__(self, sock: socket.socket, run: Run) -> None:
        self._sock = sock
        self._run = run
        self._reading = threading.Lock()
        self._writing = threading.Lock()
        self._pid = _getpid()

    def serve(self) -> None:
        while True:
            try:
                with self._reading:
                    frame = frames.read(self._sock)
                header = frame.header
                os.environ.update(header.get("environment", {}))
                packed = self._run(header["id"], frame.body, header["serializers"])
                self._leave_if_forked()
                self._send(frames.Frame(frames.RESULT, {"id": header["id"]}, packed))
            except (EOFError, OSError):
                _exit(os.EX_OK)
            except BaseException:
                try:
                    sys.__excepthook__(*sys.exc_info())
                finally:  # the tasks of a worker that lives on would never end
                    _exit(os.EX_SOFTWARE)

    def _send(self, frame: frames.Frame) -> None:
        data = frames.pack(frame)
        with self._writing:
            self._sock.sendall(data)

    def _leave_if_forked(self) -> None:
        """A child that a task forked and let return must not answer in our name."""
        if _getpid() != self._pid:
            _exit(os.EX_OK)

    def start(self, threads: int, details: dict[str, Any]) -> None:
        """Ready is a worker that has its threads: one that cannot have them dies before."""
        for number in range(1, threads):
            threading.Thread(target=self.serve, name=f"task-{number}", daemon=True).start()
        self._send(frames.Frame(frames.READY, {"details": details}))


def set_title(title: str) -> None:
    try:
        from setproctitle import setproctitle
    except ImportError:
        return
    setproctitle(title)


def _executor(setup: dict[str, Any]) -> Any:
    from mepd.uep.engines.sdk import import_late

    import_late()
    from mepd.uep.engines.execute import ExecuteSettings, Executor

    return Executor(
        ExecuteSettings(
            endpoint_id=setup["endpoint_id"],
            folder=Path(setup["folder"]),
            sandbox=setup["sandbox"],
            alone=setup["threads"] == 1,
            allowed_serializers=tuple(setup["allowed_serializers"]),
        )
    )


def main(argv: list[str]) -> int:
    from mepd.posix.parent import die_with_parent

    fd, parent = int(argv[1]), int(argv[2])
    try:
        die_with_parent(parent, signal.SIGKILL)
    except ProcessLookupError:
        return os.EX_OK
    os.set_inheritable(fd, False)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(line_buffering=True, errors="backslashreplace")
    sock = socket.socket(fileno=fd)
    setup = frames.read(sock).header
    set_title(setup["title"])
    executor = _executor(setup)
    server = Server(sock, executor.run)
    server.start(setup["threads"], executor.details)
    server.serve()
    return os.EX_OK


if __name__ == "__main__":
    sys.exit(main(sys.argv))
