"""Reading the end of a log that somebody else writes, and may have replaced by anything."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import stat
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import click

from mepd.ctl.main import exit_code, explain
from mepd.errors import ControlError
from mepd.posix import accounts
from mepd.posix.accounts import Account
from mepd.posix.parent import die_with_parent

_CHUNK = 64 * 1024
_END_MAX = 8 * 1024 * 1024
_LOOK = 0.25


def as_user(account: Account, show: Callable[[], int]) -> int:
    """Run ``show`` in a child that has become ``account`` for good. Returns its exit code.

    An interrupt ends the child, which then has ended well.
    """
    sys.stdout.flush()
    parent = os.getpid()
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    pid = os.fork()
    if pid == 0:
        os._exit(_child(account, show, parent))
    signal.signal(signal.SIGINT, lambda *_: _interrupt(pid))
    try:
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    finally:
        signal.signal(signal.SIGINT, before)


def _interrupt(pid: int) -> None:
    """A terminal tells the child, too; ``kill`` tells only one."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGINT)


def _child(account: Account, show: Callable[[], int], parent: int) -> int:
    code = os.EX_SOFTWARE
    signal.signal(signal.SIGINT, lambda *_: os._exit(os.EX_OK))
    try:
        accounts.drop_for_good(account)
        die_with_parent(parent)
        os.chdir("/")
        code = show()
        sys.stdout.flush()
    except ControlError as e:
        click.echo(f"mepctl: {e}", err=True)
        code = e.exit_code
    except BrokenPipeError:
        code = os.EX_IOERR
    except OSError as e:
        click.echo(f"mepctl: {explain(e)}", err=True)
        code = exit_code(e)
    return code


def open_plain(path: Path) -> int:
    """A regular file for reading; never a link's target, never waiting for a FIFO's writer.

    Raises ControlError or OSError.
    """
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
    try:
        fd = os.open(path, flags)
    except OSError as e:
        if path.is_symlink():
            raise ControlError(f"{path}: is a link, which is not followed", os.EX_NOPERM) from None
        e.filename = str(path)
        raise
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise ControlError(f"{path}: is no regular file", os.EX_NOPERM)
    return fd


def last_lines(fd: int, count: int) -> bytes:
    """The last ``count`` lines, of at most 8 MB; the file is then at its end."""
    end = os.lseek(fd, 0, os.SEEK_END)
    at, data = end, b""
    while at > 0 and data.count(b"\n") <= count and end - at < _END_MAX:
        step = min(_CHUNK, at)
        at -= step
        data = os.pread(fd, step, at) + data
    lines = data.splitlines(keepends=True)
    return b"".join(lines[len(lines) - min(count, len(lines)) :])


def clean(text: str) -> str:
    """A line without what steers a terminal: the log's writer may be anybody."""
    return "".join(
        c if c.isprintable() or c == "\t" else c.encode("unicode_escape").decode() for c in text
    )


@dataclass
class Tail:
    """Prints lines; an unfinished one waits for its end."""

    lines: int
    follow: bool
    as_json: bool
    _rest: bytes = field(default=b"", init=False)

    def show(self, path: Path) -> int:
        """Print the end of ``path``, and what follows. Raises ControlError or OSError."""
        fd = open_plain(path)
        self._print(last_lines(fd, self.lines))
        while self.follow:
            self._print(_read(fd))
            sys.stdout.flush()
            time.sleep(_LOOK)
            fd = self._current(path, fd)
        if self._rest:
            self._print(b"\n")
        os.close(fd)
        return os.EX_OK

    def _current(self, path: Path, fd: int) -> int:
        """The file that has the name now: logs are rotated, moved away, or cut."""
        here = os.fstat(fd)
        try:
            there = os.stat(path, follow_symlinks=False)
        except FileNotFoundError:
            return fd
        if (there.st_dev, there.st_ino) != (here.st_dev, here.st_ino):
            self._print(_read(fd))
            new = open_plain(path)
            os.close(fd)
            return new
        if here.st_size < os.lseek(fd, 0, os.SEEK_CUR):
            os.lseek(fd, 0, os.SEEK_SET)
        return fd

    def _print(self, data: bytes) -> None:
        *whole, self._rest = (self._rest + data).split(b"\n")
        for line in whole:
            text = line.decode("utf-8", "replace")
            click.echo(json.dumps({"line": text}) if self.as_json else clean(text))
        if len(self._rest) > _CHUNK:
            self._print(b"\n")


def _read(fd: int) -> bytes:
    data = b""
    while chunk := os.read(fd, _CHUNK):
        data += chunk
        if len(data) >= _END_MAX:
            break
    return data
