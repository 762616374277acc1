"""The irreversible part: from root to the mapped account, in the only right order."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from mepd.launch.failure import StageError
from mepd.model import Stage
from mepd.posix import accounts, process, syscalls
from mepd.posix.accounts import Account


@contextmanager
def stage(which: Stage, what: str) -> Iterator[None]:
    """Turn any failure inside into that stage's StageError."""
    try:
        yield
    except StageError:
        raise
    except Exception as e:
        raise StageError(which, f"{what}: ({type(e).__name__}) {e}") from e


def become(
    account: Account,
    keep_privilege_paths: bool,
    after_groups: Callable[[], None],
    parent_pid: int,
) -> None:
    """Become ``account`` for good. Raises StageError; the caller must not go on then.

    ``keep_privilege_paths`` is set with PAM, where the site decides: set-user-ID programs
    stay usable. Without it every capability goes and no exec gives one back.
    ``after_groups`` runs as root after initgroups(3), which wipes what PAM had added.
    Each change of ids takes die_with_parent() back, so that it is done anew.
    """
    old_uid, old_gid = os.getuid(), os.getgid()
    if not keep_privilege_paths:
        with stage(Stage.HOST_AUTH, "dropping the bounding set"):
            syscalls.drop_bounding_set()
    with stage(Stage.INITGROUPS, "initgroups"):
        accounts.set_groups(account)
        after_groups()
    with stage(Stage.HOST_AUTH, "setresgid"):
        accounts.set_gid(account)
    _die_with(parent_pid)
    with stage(Stage.SETUID, "setresuid"):
        accounts.set_uid(account)
    _die_with(parent_pid)
    with stage(Stage.REGAIN, "regain check"):
        accounts.prove_irreversible(account, old_uid, old_gid)
        syscalls.set_not_dumpable()
    with stage(Stage.HOST_AUTH, "dropping capabilities"):
        syscalls.capset_none()
        if not keep_privilege_paths:
            syscalls.set_no_new_privs()


def _die_with(parent_pid: int) -> None:
    with stage(Stage.PARENT, "lifeline"):
        process.die_with_parent(parent_pid)
