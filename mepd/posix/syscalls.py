"""prctl(2), capset(2) and pidfd_send_signal(2): calls that Python's os does not offer."""

from __future__ import annotations

import ctypes
import errno
import os

PR_SET_PDEATHSIG = 1
PR_SET_DUMPABLE = 4
PR_SET_CHILD_SUBREAPER = 36
PR_SET_NO_NEW_PRIVS = 38
PR_CAPBSET_READ = 23
PR_CAPBSET_DROP = 24
PR_CAP_AMBIENT = 47
PR_CAP_AMBIENT_CLEAR_ALL = 4
_CAPABILITY_VERSION_3 = 0x20080522
_KEYCTL = {"x86_64": 250, "aarch64": 219, "riscv64": 219, "ppc64le": 271, "s390x": 280}
_JOIN_SESSION_KEYRING = 1

_libc = ctypes.CDLL(None, use_errno=True)


def _fail(call: str) -> OSError:
    number = ctypes.get_errno()
    return OSError(number, f"{call}: {os.strerror(number)}")


def prctl(option: int, arg2: int = 0, arg3: int = 0, arg4: int = 0, arg5: int = 0) -> int:
    """prctl(2). Raises OSError."""
    args = [ctypes.c_ulong(a) for a in (arg2, arg3, arg4, arg5)]
    result: int = _libc.prctl(ctypes.c_int(option), *args)
    if result < 0:
        raise _fail("prctl")
    return result


class _CapHeader(ctypes.Structure):
    _fields_ = [("version", ctypes.c_uint32), ("pid", ctypes.c_int)]


class _CapData(ctypes.Structure):
    _fields_ = [
        ("effective", ctypes.c_uint32),
        ("permitted", ctypes.c_uint32),
        ("inheritable", ctypes.c_uint32),
    ]


def capset_none() -> None:
    """capset(2) with every set empty, and no ambient capability. Raises OSError."""
    prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL)
    header = _CapHeader(_CAPABILITY_VERSION_3, 0)
    data = (_CapData * 2)()
    if _libc.capset(ctypes.byref(header), ctypes.byref(data)) != 0:
        raise _fail("capset")


def drop_bounding_set() -> None:
    """Empty the capability bounding set (capabilities(7)); needs CAP_SETPCAP. Raises OSError."""
    for cap in range(64):
        try:
            present = prctl(PR_CAPBSET_READ, cap)
        except OSError as e:
            if e.errno == errno.EINVAL and cap:
                return  # past the kernel's last capability
            raise
        if present:
            prctl(PR_CAPBSET_DROP, cap)


def new_session_keyring() -> None:
    """keyctl(2), KEYCTL_JOIN_SESSION_KEYRING: an empty one in place of that which the caller
    shares with its parent. Raises OSError.

    A kernel without keys, or one that gives this process none, has none to share either.
    """
    number = _KEYCTL.get(os.uname().machine)
    if number is None or _libc.syscall(ctypes.c_long(number), _JOIN_SESSION_KEYRING, None) >= 0:
        return
    if ctypes.get_errno() not in (errno.ENOSYS, errno.EPERM):
        raise _fail("keyctl")


def set_no_new_privs() -> None:
    """PR_SET_NO_NEW_PRIVS: no exec gives privileges from here on. Raises OSError."""
    prctl(PR_SET_NO_NEW_PRIVS, 1)


def set_subreaper(on: bool = True) -> None:
    """PR_SET_CHILD_SUBREAPER: orphaned descendants become children of this process.

    Survives exec, so that a process that execs a program of a user's turns it off first.
    """
    prctl(PR_SET_CHILD_SUBREAPER, int(on))


def set_not_dumpable() -> None:
    """PR_SET_DUMPABLE 0: no core, and no ptrace by processes of the same user."""
    prctl(PR_SET_DUMPABLE, 0)
