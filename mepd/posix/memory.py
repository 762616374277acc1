"""The C library's allocator: mallopt(3)."""

from __future__ import annotations

import ctypes

M_MMAP_THRESHOLD = -3
LARGE = 1024 * 1024


def give_back_large_blocks() -> bool:
    """Have blocks of 1 MiB and more go back to the kernel when they are freed.

    glibc raises its bound to the size of each large block that is freed, up to 32 MiB, and
    keeps what is smaller in heaps that do not shrink. False for a C library without it.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    return bool(mallopt is not None and mallopt(M_MMAP_THRESHOLD, LARGE))
