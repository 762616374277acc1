"""The host: the process that has Parsl's executor. Started by mepd.uep.engines.htex.

``python -P -m mepd.uep.htex.host FD PARENT_PID`` speaks engines/frames on the descriptor:
SETUP with the checked configuration in, READY out, then TASK and WAITING in, RESULT, LOST
and STATE out, and FAILED when no task can run. At the end of file it cancels its blocks
and leaves nothing of its own behind. It is the subreaper of what it starts.
"""

from __future__ import annotations

import logging
import os
import secrets
import select
import signal
import socket
import sys
import threading
from concurrent.futures import Future
from functools import partial
from pathlib import Path
from typing import Any

from mepd.config import parslspec
from mepd.errors import ConfigError
from mepd.log import LineFormatter
from mepd.posix import orphans, syscalls
from mepd.posix.parent import die_with_parent
from mepd.uep.engines import frames
from mepd.uep.htex.lean import import_little
from mepd.uep.htex.orphans import Orphans
from mepd.uep.htex.pipe import Pipe

log = logging.getLogger("mepd.uep.htex")

LOOK_EVERY = 0.5
KILLED = {128 + signal.SIGKILL, 128 + signal.SIGTERM}
"""Exit codes of a block that somebody ended."""
LAUNCH_PATIENCE = 5.0
"""Seconds at the end for a block that is being launched."""


class _Hopeless(RuntimeError):
    """Another attempt would fail likewise."""


class _Stop(BaseException):
    """Raised in the main thread by SIGTERM."""


class Host:
    """See the module. ``setup`` is the first frame's header."""

    def __init__(self, pipe: Pipe, setup: dict[str, Any], body: bytes) -> None:
        from mepd.uep.htex import executor, ship
        from mepd.uep.htex.build import build
        from mepd.uep.htex.ledger import Ledger
        from mepd.uep.htex.scaling import Scaling
        from mepd.uep.htex.state import Watch

        self._pipe = pipe
        self._orphans = Orphans()
        self._folder = Path(setup["folder"])
        spec = parslspec.load(body)
        os.makedirs(self._folder / "submit_scripts", mode=0o700, exist_ok=True)
        how = ship.embedded if spec.remote else partial(ship.ship, self._folder)
        pool = how(setup["workers"])
        self.executor = build(spec, executor.CLASSES, self._folder, pool)
        self._ledger = Ledger(self._folder, self._cancel_other)
        self.executor.token = secrets.token_hex(4)
        self.executor.launched = self._launched
        self.scaling = Scaling(
            self.executor, spec.poller, self._ledger.keep, lambda: self.watch.slots > 0
        )
        self.watch = Watch(self.executor, pipe, self.scaling.look_now)

    def start(self) -> None:
        if self._ledger.leftovers:
            threading.Thread(target=self._ledger.cancel_leftovers, daemon=True).start()
        self.executor.start()
        self._pipe.send(frames.Frame(frames.READY, {}))
        self.scaling.start()
        self.watch.start()

    def _launched(self, job_id: str, name: str) -> None:
        from mepd.uep.htex.ledger import Block

        provider = self.executor.provider
        cluster = str(getattr(provider, "clusters", None) or "")
        name = str(provider.resources.get(job_id, {}).get("pod_name", name))
        self._ledger.add(Block(type(provider).__name__, job_id, name, cluster=cluster))
        log.info("block started as job %s (%s)", job_id, name)
        self.watch.hurry()

    def _cancel_other(self, block: Any) -> bool:
        """Cancel a leftover by the provider itself, if it is of the same kind."""
        provider = self.executor.provider
        if type(provider).__name__ != block.provider:
            return False
        try:
            known = {"job_id": block.job_id, "pod_name": block.name, "status": None}
            provider.resources.setdefault(block.job_id, known)
            return all(provider.cancel([block.job_id]))
        except Exception as e:
            log.error("cannot cancel %s: %s", block.job_id, e)
            return False

    # --- frames in --------------------------------------------------------------------
    def serve(self) -> None:
        """Until the end of file, or until no task can run any more."""
        while True:
            if select.select([self._pipe.sock], [], [], LOOK_EVERY)[0]:
                frame = frames.read(self._pipe.sock)
                if frame.kind == frames.TASK:
                    self._submit(frame)
                elif frame.kind == frames.WAITING:
                    self._set_waiting(int(frame.header["count"]))
            self._check()
            if self._orphans.reap({self.executor.interchange_proc.pid}):
                self.scaling.look_now()  # one may have been a block

    def _set_waiting(self, count: int) -> None:
        before, self.executor.waiting = self.executor.waiting, count
        if count and not before:
            self.watch.hurry()
            if not self.watch.slots:
                self.scaling.hurry()

    def _check(self) -> None:
        """Raises RuntimeError if the executor is beyond help."""
        if self.executor.bad_state_is_set:
            ends = {status.exit_code for status in self.executor.status_facade.values()}
            kind = RuntimeError if ends & KILLED else _Hopeless
            raise kind(str(self.executor.executor_exception).strip())
        status = self.executor.interchange_proc.poll()
        if status is not None:
            raise RuntimeError(f"Parsl's interchange ended, exit status {status}")

    def _submit(self, frame: frames.Frame) -> None:
        task_id = frame.header["id"]
        context: dict[str, Any] = {
            "mepd": {"id": task_id, "serializers": frame.header["serializers"]}
        }
        if frame.header.get("resources"):
            context["resource_spec"] = frame.header["resources"]
        try:
            future = self.executor.submit_payload(context, frame.body)
        except Exception as e:
            self._lose(task_id, e)
            return
        future.add_done_callback(lambda f: self._finished(task_id, f))

    def _finished(self, task_id: str, future: Future[Any]) -> None:
        """In a thread of the executor's."""
        try:
            value = future.result()
        except Exception as e:
            self._lose(task_id, e)
            return
        if isinstance(value, bytes):
            self._pipe.send(frames.Frame(frames.RESULT, {"id": task_id}, value))
        else:
            text = str(value["lost"])[:4000]
            self._pipe.send(frames.Frame(frames.LOST, {"id": task_id, "text": text}))

    def _lose(self, task_id: str, error: Exception) -> None:
        if self.executor.bad_state_is_set:
            return  # FAILED tells of all tasks
        text = f"{type(error).__name__}: {error}"[:4000]
        self._pipe.send(frames.Frame(frames.LOST, {"id": task_id, "text": text}))

    # --- the end ----------------------------------------------------------------------
    def end(self) -> None:
        """Cancel the blocks. What runs on this machine is swept by the caller."""
        from mepd.uep.htex.ledger import LOCAL

        ended = self.executor.interchange_proc is None or self.executor.interchange_proc.poll()
        jobs = self.scaling.end(LAUNCH_PATIENCE if ended is None else 1.0)
        provider = self.executor.provider
        left: list[str] = []
        if jobs and type(provider).__name__ != LOCAL:
            try:
                done = provider.cancel(jobs)
                left = [job for job, well in zip(jobs, done, strict=False) if not well]
            except Exception as e:
                log.error("cannot cancel the blocks: %s", e)
                left = jobs
            if left:
                log.error("not cancelled, so for the next start: %s", ", ".join(left))
        self._ledger.keep(left)


def _logging(debug: bool) -> None:
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(LineFormatter())
    logging.basicConfig(level=logging.INFO, handlers=[handler])
    # Parsl tells at length what it does; of that only what goes wrong is the user's
    logging.getLogger("parsl").setLevel(logging.DEBUG if debug else logging.ERROR)


def _stop(*_: object) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    raise _Stop


def _run(pipe: Pipe, frame: frames.Frame) -> int:
    host: Host | None = None
    try:
        host = Host(pipe, frame.header, frame.body)
        host.start()
        host.serve()
    except (EOFError, _Stop):
        return os.EX_OK
    except Exception as e:
        expected = isinstance(e, (ConfigError, RuntimeError))
        log.error("%s", e, exc_info=not expected)
        text = str(e) or type(e).__name__
        header = {"text": text[:8000], "final": isinstance(e, (ConfigError, _Hopeless))}
        pipe.send(frames.Frame(frames.FAILED, header))
        return os.EX_SOFTWARE
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        if host is not None:
            host.end()
    return os.EX_OK


def main(argv: list[str]) -> int:
    fd, parent = int(argv[1]), int(argv[2])
    signal.signal(signal.SIGTERM, _stop)
    try:
        die_with_parent(parent, signal.SIGTERM)
    except ProcessLookupError:
        return os.EX_OK
    syscalls.set_subreaper()
    os.set_inheritable(fd, False)
    sock = socket.socket(fileno=fd)
    import_little()
    try:
        frame = frames.read(sock)
    except EOFError:
        return os.EX_OK
    from setproctitle import setproctitle

    setproctitle(frame.header["title"])
    _logging(frame.header["debug"])
    try:
        return _run(Pipe(sock), frame)
    finally:
        orphans.end()


if __name__ == "__main__":
    code = main(sys.argv)
    logging.shutdown()
    os._exit(code)  # Parsl's threads do not end by themselves
