"""The last steps, as the user: folder, log, stdin document, descriptors, exec."""

from __future__ import annotations

import json
import os
import sys
import time
from dataclasses import dataclass
from typing import Any

from mepd.config.launchplan import CredentialFile, LaunchPlan
from mepd.launch import refresh
from mepd.launch.become import stage
from mepd.launch.report import StageSocket
from mepd.launch.resolve import Resolved
from mepd.model import AUDIT_FD, CREDENTIALS_FD, NOTIFY_FD, Stage
from mepd.posix import descriptors, process, programs, rlimits
from mepd.posix.accounts import Account


@dataclass(frozen=True)
class Descriptors:
    """What survives the exec, by number now: the stdin document, the notify socket, the
    UEP's own descriptor of ``file``, and the socket for audit records where the endpoint
    has an audit log."""

    document: int
    notify: int
    credentials: int
    file: CredentialFile
    audit: int | None = None


def _enter_home(account: Account) -> str:
    """Make the home folder the working one; '/' where there is none, as login(1) does."""
    with stage(Stage.CHDIR, "home folder"):
        try:
            os.chdir(account.home)
        except (FileNotFoundError, NotADirectoryError, PermissionError):
            os.chdir("/")
        return os.getcwd()


def _make_folder(account: Account, name: str) -> str:
    """``~/.globus_compute/NAME``, 0700, made as the user in a home that is there."""
    with stage(Stage.CONFIG, f"folder of the UEP below {account.home or '/'}"):
        folder = account.home or "/"
        for part in (".globus_compute", name):
            folder = os.path.join(folder, part)
            try:
                os.mkdir(folder, 0o700)
            except FileExistsError:
                if not os.path.isdir(folder):
                    raise
        return folder


def _debug_lines(text: str) -> str:
    """The configuration between the manual's two sentinel lines."""
    when = time.strftime("%Y-%m-%d %H:%M:%S")
    body = text.rstrip("\n").replace("\n", "\n  | ")
    count = text.rstrip("\n").count("\n") + 1
    return (
        f"{when} DEBUG mepd: launch Begin Compute endpoint configuration ({count:,} lines):"
        f"\n  | {body}\nEnd Compute endpoint configuration\n"
    )


def _survives_json(values: dict[str, Any]) -> bool:
    """Not so a date, a key that is no string, or NaN, which is not even itself."""
    try:
        return bool(json.loads(json.dumps(values)) == values)
    except (TypeError, ValueError):
        return False


def _document(
    plan: LaunchPlan, resolved: Resolved, text: str, config: dict[str, Any], fds: Descriptors
) -> bytes:
    """The stdin document (globus-compute-endpoint 4.19, cli.py), with mepd's own fields."""
    info: dict[str, Any] = {"posix_ppid": os.getppid()}
    if resolved.matched:
        info["globus_candidate_identities"] = resolved.candidates
        info["globus_matched_identity"] = resolved.matched
    document: dict[str, Any] = {
        "amqp_creds": plan.request.amqp_creds,
        "config": text,
        "ep_info": info,
        "notify_fd": NOTIFY_FD,
        "mem_fd": CREDENTIALS_FD,
        "enckey": fds.file.key,
    }
    if plan.snapshot.runs_own_uep and _survives_json(config):
        document["config_values"] = config  # the UEP need not load a parser
    if fds.audit is not None:
        document["audit_fd"] = AUDIT_FD
        if not plan.snapshot.runs_own_uep:
            # globus-compute-endpoint writes records only then, and its manager says so, too
            document["config"] = f"high_assurance: true\n{text}"
    if plan.snapshot.allowed_functions is not None:
        document["allowed_functions"] = list(plan.snapshot.allowed_functions)
    return json.dumps(document, separators=(",", ":")).encode("ascii")


def hand_over(
    plan: LaunchPlan,
    resolved: Resolved,
    text: str,
    config: dict[str, Any],
    env: dict[str, str],
    fds: Descriptors,
    parent_pid: int,
    stages: StageSocket,
) -> None:
    """Exec the UEP; returns only by a StageError, which ``stages`` is still there to tell."""
    name = plan.request.name
    env["CWD"] = _enter_home(resolved.account)
    folder = _make_folder(resolved.account, name)
    with stage(Stage.STDIN, "stdin document"):
        descriptors.fill_and_seal(fds.document, _document(plan, resolved, text, config, fds))
        if not plan.snapshot.runs_own_uep:
            # globus-compute-endpoint looks there alone; for mepd-uep it would be time lost
            refresh.write(fds.file, plan.request.amqp_creds)
    with stage(Stage.LOG, f"log {folder}/endpoint.log"):
        log_fd = descriptors.open_log(os.path.join(folder, "endpoint.log"))
        if config.get("debug") is True:
            os.write(log_fd, _debug_lines(text).encode("utf-8", "replace"))
    argv = [word.replace("{name}", name) for word in plan.snapshot.uep_command]
    with stage(Stage.EXEC, f"command {argv[0]}"):
        program = programs.find_program(argv[0], env["PATH"])
    with stage(Stage.DESCRIPTORS, "descriptors"):
        sys.stdout.flush()
        sys.stderr.flush()
        stages.move_above(CREDENTIALS_FD + 1)
        wanted = {
            0: fds.document,
            1: log_fd,
            2: log_fd,
            NOTIFY_FD: fds.notify,
            CREDENTIALS_FD: fds.credentials,
        }
        if fds.audit is not None:
            wanted[AUDIT_FD] = fds.audit
        descriptors.place(wanted)
        # Also what modules of PAM and of NSS have left open: it was opened as root
        descriptors.close_all_but([*wanted, stages.fileno()])
    with stage(Stage.PARENT, "lifeline"):
        rlimits.allow_core(plan.snapshot.limits)
        process.reset_signals()
        process.die_with_parent(parent_pid)
    with stage(Stage.EXEC, f"exec {program}"):
        os.execve(program, argv, env)
