"""Whether an account can execute a program: tried by a process that has become it."""

from __future__ import annotations

import errno
import os
import pwd
import sys
from pathlib import Path

from mepd.posix import accounts, programs
from mepd.posix.accounts import Account

_TEXT_MAX = 4000
_FOUND, _NOT = b"+", b"-"


def as_user(user: pwd.struct_passwd, word: str, path: str) -> str:
    """Where ``user`` finds the program on ``path``; as root. Raises PermissionError."""
    account = Account(
        user.pw_name, user.pw_uid, user.pw_gid, user.pw_gecos, user.pw_dir, user.pw_shell
    )
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        code = os.EX_SOFTWARE
        try:
            os.close(reader)
            os.write(writer, _answer(account, word, path))
            code = os.EX_OK
        finally:
            os._exit(code)
    os.close(writer)
    with os.fdopen(reader, "rb") as f:
        answer = f.read(_TEXT_MAX)
    os.waitpid(pid, 0)
    text = answer[1:].decode("utf-8", "replace")
    if answer[:1] != _FOUND:
        raise PermissionError(text or f"cannot look as {user.pw_name}")
    return text


def _answer(account: Account, word: str, path: str) -> bytes:
    try:
        accounts.drop_for_good(account)
        os.chdir("/")
        found = _find(word, path)
        _check_interpreter(found)
        return (_FOUND + os.fsencode(found))[:_TEXT_MAX]
    except OSError as e:
        text = f"{account.name} cannot execute {e.filename or word}: {e.strerror}"
        return _NOT + text.encode()[: _TEXT_MAX - 1]


def _find(word: str, path: str) -> str:
    """As the launch child looks. Raises OSError, for a program out of reach naming it."""
    try:
        place = programs.find_program(word, path)
        if os.access(place, os.X_OK):
            return place
    except FileNotFoundError:
        pass
    folders = [f for f in path.split(":") if f.startswith("/")]
    places = [word] if "/" in word else [os.path.join(f, word) for f in folders]
    for place in [*places, str(Path(sys.executable).parent / word)]:
        why = _why(place)
        if why != errno.ENOENT:
            raise PermissionError(why, os.strerror(why), place)
    raise FileNotFoundError(errno.ENOENT, f"not found on PATH {path!r}", word)


def _why(place: str) -> int:
    try:
        os.stat(place)
    except OSError as e:
        return e.errno or errno.EACCES
    return errno.EACCES  # it is there, and not executable


def _check_interpreter(found: str) -> None:
    """Of a script: what its first line names. Raises OSError."""
    with open(found, "rb") as f:
        first = f.read(256).split(b"\n")[0]
    if not first.startswith(b"#!"):
        return
    interpreter = os.fsdecode(first[2:].strip().split(b" ")[0])
    os.stat(interpreter)
    if not os.access(interpreter, os.X_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), interpreter)
