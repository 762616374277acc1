"""The guard of a [program:x]: its parent, its subreaper, its end."""

from __future__ import annotations

import os
import signal
import socket
import sys

from mepd.config.settings import ProgramSection
from mepd.master import spawner
from mepd.posix import accounts, descriptors, guard, process
from mepd.posix.accounts import Account

REFUSED = os.EX_TEMPFAIL
"""The exit code of a guard that has said that the system refuses its fork."""
_NOT_EXECUTABLE = 126
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def run(section: ProgramSection, lifeline: socket.socket, master_pid: int) -> int:
    """Run the program until it ends, mepd stops it, or mepd dies. Returns its exit code.

    The account is looked up here: a directory server that hangs is not to hold the master.
    Where it cannot be had, or no process, the master is told by the lifeline.
    """
    try:
        account = _account(section)
        if account is not None:
            accounts.drop_for_good(account)
    except (KeyError, OSError) as e:
        why = "there is no such account" if isinstance(e, KeyError) else e.strerror or e
        text = f"user = {section.user}: {why}"
        _tell(lifeline, text)
        return os.EX_NOUSER
    watcher = guard.Guard(master_pid)
    me = os.getpid()
    try:
        pid = process.fork(lambda: _exec(section, account, me))
    except OSError as e:
        _tell(lifeline, str(e))
        return REFUSED
    stop = getattr(signal, "SIG" + section.stopsignal.removeprefix("SIG"))
    return guard.leave_like(watcher.watch(pid, lifeline, stop))


def _tell(lifeline: socket.socket, text: str) -> None:
    lifeline.send(text.encode("utf-8", "replace")[: spawner.LAST_WORD_MAX])


def _account(section: ProgramSection) -> Account | None:
    """Whom to become; None to stay who one is. Raises KeyError."""
    account = accounts.lookup(section.user) if section.user else None
    return None if account is None or account.uid == os.geteuid() else account


def _environment(section: ProgramSection, account: Account | None) -> dict[str, str]:
    env = {"PATH": _PATH, "HOME": "/root", "USER": "root"}
    if account is not None:
        env.update(HOME=account.home, USER=account.name, LOGNAME=account.name)
    env.update(section.environment)
    return env


def _exec(section: ProgramSection, account: Account | None, guard_pid: int) -> int:
    """In the child: become a session of its own and exec. Returns only on failure."""
    descriptors.close_all_but([0, 1, 2])
    os.setsid()
    os.umask(0o027)
    env = _environment(section, account)
    what = f"directory {section.directory}"
    try:
        os.chdir(section.directory or "/")
        what = section.command[0]
        process.die_with_parent(guard_pid)
        os.execvpe(section.command[0], list(section.command), env)
    except OSError as e:
        sys.stderr.write(f"mepd: program {section.name}: {what}: {e.strerror}\n")
    return _NOT_EXECUTABLE
