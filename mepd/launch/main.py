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
from mepd.posix import descriptors, process, rlimits
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
        with _ending_with(plan.master_pid):
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
        if plan.privileged and plan.snapshot.pam_enable:
            return _run_with_pam(plan, resolved, stages, sockets, fds)
        return _become_uep(plan, resolved, stages, sockets, fds, plan.master_pid, {}, lambda: None)
    except StageError as e:
        return _failed(stages, e, user)
    except Exception as e:
        log.exception("launch child failed")
        return _failed(stages, StageError(Stage.PREPARE, f"({type(e).__name__}) {e}"), user)


def _refresh(plan: LaunchPlan, file: CredentialFile, stages: StageSocket) -> None:
    with stage(Stage.STDIN, "refreshed credentials"):
        refresh.write(file, plan.request.amqp_creds)
    stages.send(Refreshed())


@contextlib.contextmanager
def _ending_with(master_pid: int) -> Iterator[None]:
    """Leave, by way of what cleans up, when the master dies: a mapper is not to outlive it."""

    def leave(*_: object) -> None:
        raise SystemExit(int(Stage.PREPARE))

    signal.signal(signal.SIGTERM, leave)
    with stage(Stage.PREPARE, "lifeline"):
        process.die_with_parent(master_pid, signal.SIGTERM)
    yield
    process.outlive_parent()
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


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
        rlimits.no_core_dumps_yet()
        # A mapper that does not read, or a master that is gone, is an error and no death:
        # a PAM session would stay open.
        signal.signal(signal.SIGPIPE, signal.SIG_IGN)
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
    opened = session.open_session(plan.snapshot.pam_service, user)
    pam_environment = opened.environment()
    for name in pam_environment:
        if environment.is_loaders(name):
            opened.forget(name)  # what modules run as root from here on must not heed it
    session_pid = os.getpid()
    lifeline = sockets.lifeline
    assert lifeline is not None, "the master makes a lifeline wherever PAM is enabled"

    def child() -> int:
        try:
            lifeline.close()
            return _become_uep(
                plan, resolved, stages, sockets, fds, session_pid, pam_environment,
                opened.reinitialize_credentials,
            )  # fmt: skip
        except StageError as e:
            return _failed(stages, e, user)

    def forked(pid: int) -> None:
        stages.send(SessionOpened(pid))
        stages.close()
        sockets.notify.close()
        if sockets.audit is not None:
            sockets.audit.close()
        for fd in (fds.document, fds.credentials, fds.file.fd):
            os.close(fd)

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
        become(account, plan.snapshot.pam_enable, after_groups)
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
