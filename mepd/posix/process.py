"""Forking, dying with the parent, identity of processes, and killing without mistakes."""

from __future__ import annotations

import contextlib
import gc
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass
from typing import NoReturn, TypeVar

import psutil

from mepd.posix import descriptors
from mepd.posix.parent import die_with_parent as die_with_parent  # noqa: F401

T = TypeVar("T")
_PF_FORKNOEXEC = 0x40  # include/linux/sched.h, seen in field 9 of proc(5) stat
_TICKS = os.sysconf("SC_CLK_TCK")
_PASSES_MAX = 50
_KEEP = (signal.SIGKILL, signal.SIGSTOP)


def reset_signals() -> None:
    """Default dispositions, nothing blocked, no wakeup descriptor: as a new program expects.

    An inherited wakeup descriptor would wake the parent's loop; an ignored SIGPIPE and a
    blocked mask survive exec (signal(7)).
    """
    signal.set_wakeup_fd(-1)
    for number in signal.valid_signals():
        if number not in _KEEP:
            with contextlib.suppress(OSError, ValueError):
                signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())


def fork(child: Callable[[], int]) -> int:
    """Fork; the child runs ``child`` with default signals and leaves with its return value.

    Signals are blocked around the fork, so that none is taken by the parent's handlers in
    the child. Nothing of the parent's is collected there: a socket in its garbage would
    close by number what the child has opened since. An exception leaves the child with
    EX_SOFTWARE and a traceback on stderr.
    Returns the child's pid. Raises OSError when the fork is refused, and RuntimeError in
    another thread than the main one (PDEATHSIG fires when the forking thread ends).
    """
    if threading.get_native_id() != os.getpid():
        raise RuntimeError("forks are the main thread's")
    old = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    try:
        pid = os.fork()
    except BaseException:
        signal.pthread_sigmask(signal.SIG_SETMASK, old)
        raise
    if not pid:
        _live(child)
    signal.pthread_sigmask(signal.SIG_SETMASK, old)
    return pid


def _live(child: Callable[[], int]) -> NoReturn:
    """The whole life of a forked child."""
    code = os.EX_SOFTWARE
    try:
        descriptors.forget_spare()
        gc.freeze()
        reset_signals()
        code = child()
    except SystemExit as e:
        code = e.code if isinstance(e.code, int) else os.EX_SOFTWARE
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        with contextlib.suppress(Exception):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


def reset_scheduling() -> None:
    """The usual policy, nice 0, no class of I/O and oom_score_adj 0: what the daemon was given
    is not for its children.

    All survive exec (sched(7), ioprio_set(2), proc(5)). What the caller may not change stays.
    """
    with contextlib.suppress(OSError):
        os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))
    with contextlib.suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, 0, 0)
    with contextlib.suppress(OSError, psutil.Error):
        psutil.Process().ionice(psutil.IOPRIO_CLASS_NONE)
    with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w") as f:
        f.write("0")


@dataclass(frozen=True)
class ProcessId:
    """A process for certain: its pid and its creation time.

    ``created`` is in seconds since the boot (proc(5), starttime): psutil's time since the
    epoch is another one when the clock was set.
    """

    pid: int
    created: float


@descriptors.spare()
def identify(pid: int) -> ProcessId | None:
    """The identity of a running process or a zombie; None if there is none."""
    fields = _stat(pid)
    return ProcessId(pid, int(fields[19]) / _TICKS) if fields else None


def since_epoch(boot_time: float) -> float:
    """A ``created`` as the clock counts now, in seconds."""
    return time.time() - time.clock_gettime(time.CLOCK_BOOTTIME) + boot_time


def _stat(pid: int) -> list[bytes]:
    """The fields of /proc/PID/stat from the third on; none if there is no such process."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as f:
            return f.read().rpartition(b")")[2].split()
    except OSError:
        return []


@descriptors.spare()
def parent_of(pid: int) -> int:
    """The parent's pid of a process or a zombie; 0 if there is none."""
    fields = _stat(pid)
    return int(fields[1]) if fields else 0


@descriptors.spare()
def real_uid(pid: int) -> int | None:
    """The real user id of a process or a zombie; None if there is none.

    From proc(5), status: fast enough to ask of one that does not live long.
    """
    return _status(pid, b"Uid")


def _status(pid: int, name: bytes) -> int | None:
    """The first number behind ``name`` in /proc/PID/status; None if there is no process."""
    try:
        with open(f"/proc/{pid}/status", "rb") as f:
            return int(f.read().partition(b"\n%s:\t" % name)[2].split(None, 1)[0])
    except (OSError, IndexError):
        return None


@descriptors.spare()
def exec_confirmed(pid: int) -> bool:
    """Whether a forked child has exec'ed; False too when it is gone (proc(5), stat field 9)."""
    fields = _stat(pid)
    return bool(fields) and fields[0] not in b"ZX" and not int(fields[6]) & _PF_FORKNOEXEC


@descriptors.spare()
def signal_process(target: ProcessId, signum: int) -> bool:
    """Send a signal to exactly this process, never to one that reuses its pid.

    The pid is pinned by a pidfd (pidfd_open(2)) before its identity is compared.
    Returns whether it was there.
    """
    try:
        fd = os.pidfd_open(target.pid)
    except ProcessLookupError:
        return False
    try:
        if identify(target.pid) != target:
            return False
        signal.pidfd_send_signal(fd, signum)
        return True
    except ProcessLookupError:
        return False
    finally:
        os.close(fd)


@descriptors.spare()
def signal_group(leader: ProcessId, signum: int) -> bool:
    """Send a signal to the process group that ``leader`` leads, if it still leads one."""
    if leader.pid <= 1 or identify(leader.pid) != leader:
        return False
    try:
        if os.getpgid(leader.pid) != leader.pid:
            return False
        os.killpg(leader.pid, signum)
        return True
    except ProcessLookupError:
        return False


@descriptors.spare()
def children() -> list[int]:
    """The pids of this process's own children, dead ones that were not waited for included.

    From proc(5), which is fast enough to find one that does not live long.
    """
    try:
        with open(f"/proc/self/task/{os.getpid()}/children", "rb") as f:
            return [int(pid) for pid in f.read().split()]
    except FileNotFoundError:  # a kernel without CONFIG_PROC_CHILDREN
        return [p.pid for p in psutil.Process().children()]


@descriptors.spare()
def descendants(*roots: int) -> list[ProcessId]:
    """All living descendants of these processes, by one look at /proc."""
    return _below(_by_parent(), roots)


_Children = dict[int, list[tuple[int, list[bytes]]]]


def _by_parent() -> _Children:
    """Every process with the fields of its stat, by its parent's pid."""
    found: _Children = {}
    for name in os.listdir("/proc"):
        if name.isdigit() and (fields := _stat(int(name))):
            found.setdefault(int(fields[1]), []).append((int(name), fields))
    return found


def _below(children: _Children, roots: Iterable[int]) -> list[ProcessId]:
    out, todo = [], list(dict.fromkeys(roots))
    seen = set(todo)
    while todo:
        for pid, fields in children.get(todo.pop(), ()):
            if pid in seen:
                continue
            seen.add(pid)
            todo.append(pid)
            if fields[0] not in b"ZX":
                out.append(ProcessId(pid, int(fields[19]) / _TICKS))
    return out


def trees(roots: Collection[int]) -> list[ProcessId]:
    """These processes, if they are there, and all their descendants."""
    if not roots:
        return []
    known = (identify(pid) for pid in roots)
    return [root for root in known if root is not None] + descendants(*roots)


@contextlib.contextmanager
def urgently() -> Iterator[None]:
    """Before all ordinary processes (sched(7), SCHED_FIFO), where the caller may.

    Those that fork and exit without end take the processor, of which this process has one
    share among theirs: they would be more than it finds, until the system has no pid left.
    """
    old: tuple[int, os.sched_param] | None = None
    with contextlib.suppress(OSError):
        before = os.sched_getscheduler(0), os.sched_getparam(0)
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))
        old = before
    try:
        yield
    finally:
        if old is not None:
            with contextlib.suppress(OSError):
                os.sched_setscheduler(0, *old)


@urgently()
def stop_each_new(find: Callable[[], list[T]], stop: Callable[[T], object]) -> list[T]:
    """``stop`` what ``find`` names, until it names nobody new: none forks its way out."""
    stopped: dict[T, None] = {}
    for _ in range(_PASSES_MAX):
        found = [target for target in find() if target not in stopped]
        if not found:
            break
        for target in found:
            stop(target)
        stopped.update(dict.fromkeys(found))
    return list(stopped)


def freeze(find: Callable[[], list[ProcessId]]) -> list[ProcessId]:
    """SIGSTOP what ``find`` names, again until it names nobody new; all that were stopped."""
    return stop_each_new(find, lambda target: _try_signal(target, signal.SIGSTOP))


def _try_signal(target: ProcessId, signum: int) -> None:
    """One that a caller without root's rights may not signal, such as what sudo(8) has begun,
    must not save all the others."""
    with contextlib.suppress(PermissionError):
        signal_process(target, signum)


def stop_child(pid: int) -> None:
    """SIGSTOP a child that nobody waits for meanwhile: its pid cannot be another's."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.kill(pid, signal.SIGSTOP)


def kill_each(targets: Iterable[ProcessId]) -> None:
    """SIGKILL these processes, and nothing below them."""
    for target in targets:
        _try_signal(target, signal.SIGKILL)


def _families(roots: Iterable[ProcessId]) -> list[ProcessId]:
    """Processes and their descendants; without those whose pid is another's by now.

    Looked at after the descendants were listed: a pid that still is the process's was so
    before.
    """
    children = _by_parent()
    out: dict[ProcessId, None] = {}
    for root in roots:
        found = _below(children, [root.pid])
        if identify(root.pid) == root:
            out.update(dict.fromkeys([root, *found]))
    return list(out)


def kill_tree(root: ProcessId) -> None:
    """SIGKILL a process, its group and all its descendants, whatever their sessions."""
    kill_all([root])


@descriptors.spare()
def kill_all(roots: Iterable[ProcessId]) -> None:
    """:func:`kill_tree` of many: a look at /proc costs as much for all as for one."""
    targets = list(roots)
    if not targets:
        return
    family = freeze(lambda: _families(targets))
    for root in targets:
        with contextlib.suppress(PermissionError):
            signal_group(root, signal.SIGKILL)
    kill_each(family)
    for root in targets:
        _end_tracer(root)


def _end_tracer(target: ProcessId) -> None:
    """SIGKILL a process of the same user that traces ``target``.

    A tracer that does not wait keeps the end of its tracee from the parent (ptrace(2)).
    """
    tracer = _status(_status(target.pid, b"TracerPid") or 0, b"Tgid")
    leader = identify(tracer) if tracer else None
    uid = real_uid(target.pid)
    if leader is None or identify(target.pid) != target or leader.pid == os.getpid():
        return
    if uid and real_uid(leader.pid) == uid:  # root's is the administrator's
        signal_process(leader, signal.SIGKILL)
