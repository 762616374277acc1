"""Audit records of tasks, for the administrator's log, by the descriptor ``audit_fd``.

A record is one write: ``fid=FUNCTION tid=TASK bid= STATE [- TEXT]``, as
globus-compute-endpoint 4.19 writes it (interchange.py). mepd answers each record with one
byte once it is in the log; of a pipe, which cannot answer, the kernel's acceptance counts.
"""

from __future__ import annotations

import logging
import os
import stat
from collections import deque
from collections.abc import Callable

from mepd.uep.amqp import IOLoop

log = logging.getLogger(__name__)

RECEIVED, EXEC_START, RUNNING = "RECEIVED", "EXEC_START", "RUNNING"
EXEC_END, FAILED = "EXEC_END", "FAILED"

Then = Callable[[], None]


def record(task_id: str, function_id: str, state: str, text: str = "") -> bytes:
    """One record, in one line."""
    line = f"fid={function_id} tid={task_id} bid= {state}" + (f" - {text}" if text else "")
    return line.replace("\n", " ").replace("\r", "").replace("\0", "").encode("utf-8", "replace")


class TaskAudit:
    """Writes records in order, without blocking; ``broken`` is called once, if it cannot, in
    a later turn of the loop: who notes may be handing over tasks that count as begun."""

    def __init__(self, loop: IOLoop, fd: int, broken: Callable[[str], None]) -> None:
        """Raises OSError if ``fd`` is no descriptor."""
        self._loop = loop
        self._fd = fd
        self._broken = broken
        self._answers = stat.S_ISSOCK(os.fstat(fd).st_mode)
        self._waiting: deque[tuple[bytes, Then | None]] = deque()
        self._unanswered: deque[Then | None] = deque()
        self._over = False
        os.set_blocking(fd, False)
        os.set_inheritable(fd, False)
        # A pipe's reader that goes is told by EPIPE alone.
        self._events = IOLoop.READ if self._answers else 0
        if self._events:
            loop.add_handler(fd, self._on_event, self._events)

    def note(
        self, task_id: str, function_id: str, state: str, text: str = "", then: Then | None = None
    ) -> None:
        """Write a record; ``then`` is called when it is in the log, and never if it is not."""
        if not self._over:
            self._waiting.append((record(task_id, function_id, state, text), then))
            if len(self._waiting) == 1:
                self._write()

    def _write(self) -> None:
        try:
            while self._waiting:
                os.write(self._fd, self._waiting[0][0])
                then = self._waiting.popleft()[1]
                if self._answers:
                    self._unanswered.append(then)
                elif then is not None:
                    then()
        except BlockingIOError:
            pass
        except OSError as e:
            self._end(e.strerror or type(e).__name__)
            return
        self._watch()

    def _watch(self) -> None:
        if self._over:
            return
        events = IOLoop.WRITE if self._waiting else 0
        events |= IOLoop.READ if self._answers else 0
        if events == self._events:
            return
        if not self._events:
            self._loop.add_handler(self._fd, self._on_event, events)
        elif not events:
            self._loop.remove_handler(self._fd)
        else:
            self._loop.update_handler(self._fd, events)
        self._events = events

    def _on_event(self, _fd: int, events: int) -> None:
        if self._answers and events & ~IOLoop.WRITE:
            self._read()
        if not self._over and self._waiting:
            self._write()

    def _read(self) -> None:
        try:
            count = len(os.read(self._fd, 4096))
        except BlockingIOError:
            return
        except OSError as e:
            self._end(e.strerror or type(e).__name__)
            return
        if not count:
            self._end("nobody reads the records")
        for _ in range(min(count, len(self._unanswered))):
            then = self._unanswered.popleft()
            if then is not None:
                then()

    def _end(self, why: str) -> None:
        if self._over:
            return
        self._over = True
        if self._events:
            self._loop.remove_handler(self._fd)
        os.close(self._fd)
        self._waiting.clear()
        log.error("the audit log cannot be written: %s; no further task runs", why)
        self._loop.call_later(0, lambda: self._broken(why))
