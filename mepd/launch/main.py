"""The launch child: between mepd's fork and the UEP's exec, a few tens of milliseconds.

It maps the identity, asks the master for its verdict, becomes the user and execs. Every
stage has a number; the first that fails ends the child with that number, after a report
to the master on a socket that the exec closes.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import setproctitle

from mepd import log as mepdlog
from mepd.config.launchplan import CredentialFile, LaunchPlan
from mepd.launch import environment, handoff, refresh, render, resolve, session
from mepd.launch.become import become, stage
from mepd.launch.failure import StageError
from mepd.launch.report import StageSocket
from mepd.launch.resolve import Resolved
from mepd.model import Stage
from mepd.posix import descriptors, process, rlimits, syscalls
from mepd.wire.activity import Refreshed
from mepd.wire.stages import Mapped, SessionOpened

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class LaunchSockets:
    """The child's ends: stages, notify (becomes the UEP's), lifeline (session process only),
    audit (becomes the UEP's); and the file for refreshed credentials, with the descriptor of
    it that becomes the UEP's, if this child does."""

    stages: socket.socket
    notify: socket.socket
    lifeline: socket.socket | None
    records: mepdlog.RecordChannel
    file: CredentialFile
    credentials: int | None = None
    audit: socket.socket | None = None


def run(plan: LaunchPlan, sockets: LaunchSockets) -> int:
    """The whole life of the launch child; returns an exit code if it did not exec."""
    stages = StageSocket(sockets.stages)
    user: str | None = None
    try:
        about = mepdlog.About(plan.request.name)
        document = _prepare(plan, sockets, about)
        pam = plan.privileged and plan.snapshot.pam_enable
        # With PAM it may not be killed, but one that is stopped is to go on and notice.
        with _ending_with(plan.master_pid, signal.SIGCONT if pam else signal.SIGKILL):
            resolved = resolve.resolve(plan)
        account = resolved.account
        user = about.user = account.name
        setproctitle.setproctitle(f"mepd: launch {user}")
        stages.send(Mapped(user, account.uid, account.gid, resolved.matched))
        verdict = stages.verdict()
        if verdict.refresh:
            _refresh(plan, sockets.file, stages)
        if not verdict.go:
            return 0
        audit = sockets.audit.fileno() if sockets.audit is not None else None
        assert sockets.credentials is not None, "the master lets only those go on that have one"
        fds = handoff.Descriptors(
            document, sockets.notify.fileno(), sockets.credentials, sockets.file, audit
        )
        with stage(Stage.PREPARE, "resource limits"):
            rlimits.usual_descriptors()
            rlimits.apply(plan.snapshot.limits)
        if pam:
            return _run_with_pam(plan, resolved, stages, sockets, fds)
        return _become_uep(plan, resolved, stages, sockets, fds, plan.master_pid, {}, lambda: None)
    except StageError as e:
        return _failed(stages, e, user)
    except Exception as e:
        log.exception("launch child failed")
        return _failed(stages, _unforeseen(e), user)


def _unforeseen(error: Exception) -> StageError:
    return StageError(Stage.PREPARE, f"({type(error).__name__}) {error}")


def _refresh(plan: LaunchPlan, file: CredentialFile, stages: StageSocket) -> None:
    with stage(Stage.STDIN, "refreshed credentials"):
        refresh.write(file, plan.request.amqp_creds)
    stages.send(Refreshed())


@contextlib.contextmanager
def _ending_with(master_pid: int, later: signal.Signals) -> Iterator[None]:
    """Leave, by way of what cleans up, when the master dies: a mapper is not to outlive it.

    The signal for that is SIGCONT, which one that is stopped heeds, too; from then on it is
    ``later``.
    """

    def leave(number: int, _: object) -> None:
        if number == signal.SIGTERM or os.getppid() != master_pid:
            raise SystemExit(int(Stage.PREPARE))

    for number in (signal.SIGTERM, signal.SIGCONT):
        signal.signal(number, leave)
    with stage(Stage.PREPARE, "lifeline"):
        process.die_with_parent(master_pid, signal.SIGCONT)
    yield
    with stage(Stage.PREPARE, "lifeline"):
        process.die_with_parent(master_pid, later)
    for number in (signal.SIGTERM, signal.SIGCONT):
        signal.signal(number, signal.SIG_DFL)


def _failed(stages: StageSocket, error: StageError, user: str | None) -> int:
    try:
        stages.send_failure(
            error.stage.name, int(error.stage), error.reason, error.public_text(user)
        )
    except OSError:
        pass  # the master is gone: nobody is left to tell
    return int(error.stage)


def _prepare(plan: LaunchPlan, sockets: LaunchSockets, about: mepdlog.About) -> int:
    """Shed what belongs to the master. Returns the memory file for the stdin document."""
    with stage(Stage.PREPARE, "preparing the child"):
        process.die_with_parent(plan.master_pid)
        setproctitle.setproctitle(f"mepd: launch {plan.request.name}")
        handler = sockets.records.child_handler("mepd: launch")
        level = "debug" if plan.debug else logging.getLevelName(logging.getLogger().level)
        mepdlog.configure("mepd: launch", [handler], str(level))
        handler.addFilter(about)
        ends = (sockets.stages, sockets.notify, sockets.lifeline, sockets.audit)
        keep = [s.fileno() for s in ends if s]
        keep += [sockets.records.writer.fileno(), sockets.file.fd]
        if sockets.credentials is not None:
            keep.append(sockets.credentials)
        descriptors.null_stdio()
        descriptors.close_all_but([0, 1, 2, *keep])
        process.reset_scheduling()
        if plan.privileged:
            syscalls.new_session_keyring()  # root's, or one that all user endpoints share
        rlimits.no_core_dumps_yet()
        syscalls.set_not_dumpable()  # a limit does not keep a core from a program (core(5))
        # A mapper that does not read, or a master that is gone, is an error and no death:
        # a PAM session would stay open. So is a file beyond the limit fsize.
        for number in (signal.SIGPIPE, signal.SIGXFSZ):
            signal.signal(number, signal.SIG_IGN)
        os.chdir("/")
        return descriptors.memory_file("mepd-stdin")


def _run_with_pam(
    plan: LaunchPlan,
    resolved: Resolved,
    stages: StageSocket,
    sockets: LaunchSockets,
    fds: handoff.Descriptors,
) -> int:
    user = resolved.account.name
    session_pid = os.getpid()
    lifeline = sockets.lifeline
    assert lifeline is not None, "the master makes a lifeline wherever PAM is enabled"
    stops = session.keep_stops()
    with session.bounded_without_mepd(lifeline):
        opened = session.open_session(plan.snapshot.pam_service, user, stops)

    def child() -> int:
        try:
            with stage(Stage.PARENT, "lifeline"):
                process.die_with_parent(session_pid)
            lifeline.close()
            return _become_uep(
                plan, resolved, stages, sockets, fds, session_pid, opened.environment,
                opened.session.reinitialize_credentials,
            )  # fmt: skip
        except StageError as e:
            return _failed(stages, e, user)
        except Exception as e:
            return _failed(stages, _unforeseen(e), user)

    def forked(pid: int) -> None:
        stages.send(SessionOpened(pid))
        stages.close()
        sockets.notify.close()
        if sockets.audit is not None:
            sockets.audit.close()
        for fd in (fds.document, fds.credentials, fds.file.fd):
            os.close(fd)

    with contextlib.closing(opened.session):
        return session.stand_guard(opened, user, lifeline, child, forked, plan.master_pid)


def _become_uep(
    plan: LaunchPlan,
    resolved: Resolved,
    stages: StageSocket,
    sockets: LaunchSockets,
    fds: handoff.Descriptors,
    parent_pid: int,
    pam_environment: dict[str, str],
    after_groups: Callable[[], None],
) -> int:
    """From root to the exec. Returns only by StageError."""
    account = resolved.account
    # What comes after the drop must not reach the master's unpickler.
    mepdlog.configure("mepd: launch", [logging.NullHandler()])
    sockets.records.writer.close()
    if sockets.lifeline is not None and parent_pid == plan.master_pid:
        sockets.lifeline.close()
    if plan.privileged:
        become(account, plan.snapshot.pam_enable, after_groups, parent_pid)
    with stage(Stage.SETSID, "setsid"):
        os.setsid()
    with stage(Stage.UMASK, "umask"):
        os.umask(0o077)
    request = plan.request
    site = plan.snapshot.environment
    env = environment.build(account, site, request.user_runtime, request.name, pam_environment)
    text, config = render.configuration(
        plan.snapshot,
        request.user_opts,
        request.user_runtime,
        resolve.template_identity(resolved),
        plan.render_timeout,
    )
    handoff.hand_over(plan, resolved, text, config, env, fds, parent_pid, stages)
    return int(Stage.EXEC)
