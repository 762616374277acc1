"""Exceptions for another thread of this process: CPython's PyThreadState_SetAsyncExc."""

from __future__ import annotations

import ctypes


def raise_in(ident: int, kind: type[BaseException] | None) -> None:
    """Have thread ``ident`` raise ``kind`` at its next bytecode; None takes that back.

    A call into C, such as a sleep, goes on to its end first.
    """
    error = ctypes.py_object(kind) if kind is not None else None
    ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(ident), error)
