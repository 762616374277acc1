"""Forks the children of the master. Entry points are named here and resolved in the child."""

from __future__ import annotations

import base64
import importlib
import logging
import os
import socket
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import setproctitle

from mepd import log as mepdlog
from mepd.config.launchplan import CredentialFile, LaunchPlan
from mepd.config.settings import MepdSection
from mepd.posix import accounts, descriptors, process, rlimits, syscalls
from mepd.posix.accounts import Account

log = logging.getLogger(__name__)

LAST_WORD_MAX = 500


def preload_launch() -> None:
    """Load what a launch child needs, so that no start has to. Raises nothing.

    What cannot be loaded is each child's own failure.
    """
    try:
        importlib.import_module("mepd.launch.preload")
    except Exception:
        log.exception("what starts need cannot be loaded")


@dataclass(frozen=True)
class Launched:
    """A launch child and the master's ends of its sockets."""

    pid: int
    stages: socket.socket
    notify: socket.socket
    lifeline: socket.socket | None
    file: CredentialFile
    audit: socket.socket | None = None


def launch(
    plan: LaunchPlan, records: mepdlog.RecordChannel, running: CredentialFile | None = None
) -> Launched:
    """Fork one launch child. Raises OSError, with nothing left open.

    With ``running``, the file of a UEP that is there, it will not become one: it may write
    new credentials to that file, and needs no socket for audit records.
    """
    pairs: list[tuple[socket.socket, socket.socket]] = []
    opened: list[int] = []
    only_maps = running is not None
    try:
        if running is None:
            opened += descriptors.one_way_file("mepd-credentials")
            key = base64.urlsafe_b64encode(os.urandom(32)).decode("ascii")
        file = running or CredentialFile(opened[0], key)
        for _ in range(3 if plan.snapshot.pam_enable else 2):
            pairs.append(socket.socketpair())
        theirs = [b for _, b in pairs]
        audited = plan.snapshot.audit_log_path is not None and not only_maps
        if audited:
            pairs.append(socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET))
        audit = pairs[-1] if audited else (None, None)

        def child() -> int:
            main = importlib.import_module("mepd.launch.main")
            lifeline = theirs[2] if len(theirs) > 2 else None
            sockets = main.LaunchSockets(
                theirs[0], theirs[1], lifeline, records, file,
                credentials=opened[1] if opened else None, audit=audit[1],
            )  # fmt: skip
            code: int = main.run(plan, sockets)
            return code

        pid = process.fork(child)
    except OSError:
        for ours, other in pairs:
            ours.close()
            other.close()
        for fd in opened:
            os.close(fd)
        raise
    for _, other in pairs:
        other.close()
    if opened:
        os.close(opened[1])
    ends = [ours for ours, _ in pairs]
    lifeline = ends[2] if plan.snapshot.pam_enable else None
    return Launched(pid, ends[0], ends[1], lifeline, file, audit[0])


@dataclass(frozen=True)
class Spawned:
    """A worker: its pid, the master's end of its socket, and the end of its stderr."""

    pid: int
    sock: socket.socket
    stderr: int


def worker(title: str, entry: str, account: Account, argument: Any, drop_first: bool) -> Spawned:
    """Fork a worker that runs ``entry`` ("module:function") as ``account``.

    With ``drop_first`` the function gets (socket) and runs without rights from its import
    on; otherwise it gets (socket, argument, drop) and calls drop() itself when it has made
    what needs root. Raises OSError.
    """
    ours, theirs = socket.socketpair()
    stderr_r, stderr_w = os.pipe2(os.O_CLOEXEC)
    master = os.getpid()

    def drop() -> None:
        accounts.drop_for_good(account)
        process.die_with_parent(master)

    def child() -> int:
        _detach(title, {1: stderr_w, 2: stderr_w}, [theirs.fileno()])
        if drop_first:
            drop()
        module, _, function = entry.partition(":")
        run: Callable[..., int] = getattr(importlib.import_module(module), function)
        return run(theirs) if drop_first else run(theirs, argument, drop)

    try:
        pid = process.fork(child)
    except OSError:
        ours.close()
        os.close(stderr_r)
        raise
    finally:
        theirs.close()
        os.close(stderr_w)
    return Spawned(pid, ours, stderr_r)


def _detach(title: str, stdio: dict[int, int], keep: list[int]) -> None:
    """Shed the master's descriptors, scheduling, keys, title and log.

    And its process group: what a terminal sends to all, such as ^C, is the master's to heed,
    which ends the others in their order.
    """
    os.setpgid(0, 0)
    setproctitle.setproctitle(title)
    mepdlog.configure(title, [logging.NullHandler()])  # the handler's descriptor is closed
    for target, source in stdio.items():
        os.dup2(source, target)
    descriptors.null_stdio([fd for fd in (0, 1, 2) if fd not in stdio])
    descriptors.close_all_but([0, 1, 2, *keep])
    sys.stdout, sys.stderr = (open(fd, "w", buffering=1, closefd=False) for fd in (1, 2))
    process.reset_scheduling()
    if os.geteuid() == 0:
        syscalls.new_session_keyring()
    rlimits.no_core_dumps()
    os.umask(0o077)
    os.chdir("/")


def program(title: str, run: Callable[[], int], logfile: Path, lifeline: socket.socket) -> int:
    """Fork a guard for a program; ``run`` is the guard's whole life. Raises OSError.

    The guard opens the log: a disk that is stuck is not to hold the master. If it cannot,
    it says so by the lifeline.
    """
    master = os.getpid()

    def child() -> int:
        _detach(title, {}, [lifeline.fileno()])
        process.die_with_parent(master)
        try:
            log_fd = _open_log(logfile)
        except OSError as e:
            lifeline.send(f"log {logfile}: {e.strerror}".encode("utf-8", "replace")[:LAST_WORD_MAX])
            return os.EX_CANTCREAT
        os.dup2(log_fd, 1)
        os.dup2(log_fd, 2)
        os.close(log_fd)
        return run()

    return process.fork(child)


def _open_log(path: Path) -> int:
    """For appending; a FIFO that nobody reads is an error. Raises OSError."""
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
    fd = os.open(path, flags | os.O_NONBLOCK, 0o640)
    os.set_blocking(fd, True)
    return fd


def log_writer(title: str, sock: socket.socket, section: MepdSection) -> int:
    """Fork the log-writer. Raises OSError."""
    master = os.getpid()

    def child() -> int:
        _detach(title, {1: 1, 2: 2}, [sock.fileno()])
        main = importlib.import_module("mepd.logwriter.main")
        code: int = main.run(sock, section, master)
        return code

    return process.fork(child)


def audit_writer(
    title: str, entry: str, account: Account, path: Path, endpoint_id: str
) -> tuple[int, socket.socket]:
    """Fork an audit-writer; its pid and the master's end of its socket. Raises OSError."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ours.setblocking(False)
    master = os.getpid()

    def child() -> int:
        _detach(title, {1: 1, 2: 2}, [theirs.fileno()])
        main = importlib.import_module(entry)
        plan = main.Plan(path, endpoint_id)
        code: int = main.run(theirs, plan, lambda: accounts.drop_for_good(account), master)
        return code

    try:
        pid = process.fork(child)
    except OSError:
        ours.close()
        raise
    finally:
        theirs.close()
    return pid, ours
