"""Has the kernel refuse a system call of this process from here on, with a given errno."""

from __future__ import annotations

import ctypes
import os
import platform
import struct

from tests.conftest import require

# The numbers of x86_64 (asm/unistd_64.h).
NUMBERS = {
    "write": 1, "dup2": 33, "execve": 59, "fcntl": 72, "chdir": 80, "mkdir": 83, "umask": 95,
    "setsid": 112, "setgroups": 116, "setresuid": 117, "setresgid": 119, "capset": 126,
    "prctl": 157, "openat": 257, "prlimit64": 302, "memfd_create": 319,
}  # fmt: skip
_PR_SET_SECCOMP, _MODE_FILTER = 22, 2
_RET_ALLOW, _RET_ERRNO = 0x7FFF0000, 0x00050000
_LOAD, _EQUAL, _RETURN = 0x20, 0x15, 0x06  # BPF_LD|BPF_W|BPF_ABS, BPF_JMP|BPF_JEQ|BPF_K, BPF_RET


class _Program(ctypes.Structure):
    _fields_ = [("length", ctypes.c_ushort), ("filter", ctypes.c_char_p)]


def refuse(call: str, errno: int, argument: tuple[int, int] | None = None) -> None:
    """``argument`` is (its index, the value that it has in the calls that are meant).

    For good, in this process and all that it forks (seccomp(2)).
    """
    require(platform.machine() == "x86_64", "x86_64")
    tests = [(0, NUMBERS[call])]
    if argument is not None:
        tests.append((16 + 8 * argument[0], argument[1] & 0xFFFFFFFF))
    code = b""
    for done, (offset, value) in enumerate(tests):
        to_allow = 2 * (len(tests) - done) - 1
        code += struct.pack("HBBI", _LOAD, 0, 0, offset)
        code += struct.pack("HBBI", _EQUAL, 0, to_allow, value)
    code += struct.pack("HBBI", _RETURN, 0, 0, _RET_ERRNO | errno)
    code += struct.pack("HBBI", _RETURN, 0, 0, _RET_ALLOW)
    program = _Program(len(code) // 8, code)
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_SECCOMP, _MODE_FILTER, ctypes.byref(program), 0, 0) != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
