"""mepd(8): from the command line to a running master."""

from __future__ import annotations

import argparse
import dataclasses
import logging
import os
import signal
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import setproctitle

import mepd
from mepd import log as mepdlog
from mepd.config import folder, ini, ownership
from mepd.config.settings import EndpointSnapshot, Settings
from mepd.errors import ConfigError, WireError
from mepd.master import control, precheck
from mepd.master.logs import LogFailure, LogWriter
from mepd.master.loop import LoopFailure
from mepd.master.supervisor import SIGNALS, Supervisor
from mepd.posix import accounts, daemon, descriptors, rlimits
from mepd.posix.accounts import Account
from mepd.posix.notify import Notifier

log = logging.getLogger(__name__)

DEFAULT_CONFIG = Path("/etc/mepd/mepd.conf")


@dataclass(frozen=True)
class StartupError(Exception):
    """mepd does not start; ``code`` is from sysexits(3)."""

    message: str
    code: int


def _arguments(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="mepd", description="multi-user endpoint daemon")
    parser.add_argument("-c", "--configuration", type=Path, default=DEFAULT_CONFIG, metavar="FILE")
    parser.add_argument("-n", "--nodaemon", action="store_true", help="stay in the foreground")
    parser.add_argument("--log-to-console", action="store_true", help="also log to stderr")
    parser.add_argument("--debug", action="store_true", help="log more; not carried to UEPs")
    parser.add_argument("--version", action="version", version=f"mepd {mepd.__version__}")
    return parser.parse_args(argv)


def _load(path: Path, environ: Mapping[str, str]) -> Settings:
    try:
        return ini.load(path.absolute(), environ)
    except ConfigError as e:
        raise StartupError(str(e), os.EX_CONFIG) from None
    except OSError as e:
        raise StartupError(f"{e.filename or path}: {e.strerror}", os.EX_NOINPUT) from None


def _check_owners(settings: Settings) -> None:
    """As root, believe and run only what nobody but root can change."""
    if os.geteuid() != 0:
        return
    paths = [
        *ownership.settings_paths(settings),
        *ownership.code_paths(Path(mepd.__file__).parent, sys.path, sys.executable),
    ]
    try:
        ownership.check_ownership(paths)
    except ConfigError as e:
        raise StartupError(str(e), os.EX_CONFIG) from None
    except OSError as e:
        raise StartupError(f"{e.filename}: {e.strerror}", os.EX_CONFIG) from None


def _endpoints(settings: Settings) -> list[EndpointSnapshot]:
    try:
        return [
            folder.load(e.name, e.directory, os.geteuid() == 0)
            for e in settings.endpoints
            if e.autostart
        ]
    except ConfigError as e:
        raise StartupError(str(e), os.EX_CONFIG) from None
    except PermissionError as e:
        raise StartupError(f"{e.filename}: {e.strerror}", os.EX_NOPERM) from None
    except OSError as e:
        raise StartupError(f"{e.filename}: {e.strerror}", os.EX_CONFIG) from None


def _worker_account(settings: Settings) -> Account:
    """The service account of the workers; without root everything runs as the caller."""
    if os.geteuid() != 0:
        return accounts.lookup_uid(os.geteuid())
    try:
        account = accounts.lookup(settings.mepd.user)
    except KeyError:
        error = settings.error(
            "[mepd] user", f" = {settings.mepd.user}: there is no such account"
        )
        raise StartupError(str(error), os.EX_CONFIG) from None
    if account.uid == 0:
        error = settings.error("[mepd] user", " must not be root: the workers face the network")
        raise StartupError(str(error), os.EX_CONFIG)
    return account


def _pidfile(settings: Settings) -> int:
    path = settings.mepd.pidfile
    try:
        path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        return daemon.lock_pidfile(path)
    except daemon.AlreadyRunning as e:
        raise StartupError(f"already running (pid {e}, {path})", os.EX_CANTCREAT) from None
    except OSError as e:
        raise StartupError(f"pidfile {path}: {e.strerror}", os.EX_CANTCREAT) from None


def _logging(settings: Settings, console: bool, debug: bool) -> LogWriter:
    section = settings.mepd
    if console and "stderr" not in section.log_to:
        section = dataclasses.replace(section, log_to=(*section.log_to, "stderr"))
    try:
        section.logfile.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        writer = LogWriter(section)
    except LogFailure as e:
        raise StartupError(str(e), os.EX_CANTCREAT) from None
    except OSError as e:
        raise StartupError(f"log {section.logfile}: {e.strerror}", os.EX_CANTCREAT) from None
    mepdlog.configure("mepd: master", [writer], "debug" if debug else section.loglevel)
    return writer


def _precheck(settings: Settings, snapshots: list[EndpointSnapshot], account: Account) -> None:
    """Have the files checked by what will use them, without rights.

    Where that cannot be had mepd starts all the same: starts of UEPs check again.
    """
    privileged = os.geteuid() == 0
    try:
        folders = {s.directory: folder.read(s.directory, privileged) for s in snapshots}
        precheck.check(folders, account)
    except ConfigError as e:
        raise StartupError(str(e), os.EX_CONFIG) from None
    except (OSError, WireError) as e:
        log.error("the endpoints' files cannot be checked as %s: %s", account.name, e)


def _supervisor(
    settings: Settings,
    snapshots: list[EndpointSnapshot],
    account: Account,
    debug: bool,
    writer: LogWriter,
) -> Supervisor:
    try:
        notifier = Notifier(settings.environ)
        return Supervisor(settings, snapshots, account, debug, notifier, writer)
    except ConfigError as e:
        raise StartupError(str(e), os.EX_CONFIG) from None
    except OSError as e:
        raise StartupError(f"the system refuses: {e.strerror}", os.EX_OSERR) from None


def _listen(supervisor: Supervisor, settings: Settings) -> None:
    section = settings.control
    try:
        section.file.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        supervisor.listen()
    except OSError as e:
        raise StartupError(
            f"control socket {section.file}: {e.strerror or e}", os.EX_CANTCREAT
        ) from None
    except KeyError as e:
        error = settings.error("[control] chown", f" = {section.chown}: {e.args[0]}")
        raise StartupError(str(error), os.EX_CONFIG) from None


def _daemonize() -> daemon.Readiness:
    try:
        return daemon.daemonize()
    except OSError as e:
        raise StartupError(f"cannot become a daemon: {e.strerror}", os.EX_OSERR) from None


def _run(args: argparse.Namespace, settings: Settings, ready: daemon.Readiness) -> int:
    """Everything after the fork into the background.

    Signals wait until the loop can take them, so that each gets its orderly answer.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    setproctitle.setproctitle("mepd: master")
    pidfile = _pidfile(settings)
    try:
        return _serve(args, settings, ready)
    finally:
        os.close(pidfile)  # before the starter hears of a failure, and may try again


def _serve(args: argparse.Namespace, settings: Settings, ready: daemon.Readiness) -> int:
    """What the holder of the pidfile does."""
    writer = _logging(settings, args.log_to_console, args.debug)
    snapshots = _endpoints(settings)
    _check_owners(settings)
    account = _worker_account(settings)
    _precheck(settings, snapshots, account)
    supervisor = _supervisor(settings, snapshots, account, args.debug, writer)
    _listen(supervisor, settings)
    ready.tell(os.EX_OK)
    log.info("mepd %s started (pid: %d)", mepd.__version__, os.getpid())
    try:
        return supervisor.run(on_terminal=args.nodaemon)
    except LoopFailure as e:
        log.critical("giving up: %s", e)
        supervisor.emergency()
        return os.EX_SOFTWARE
    except Exception:
        log.critical("unexpected error; giving up", exc_info=True)
        supervisor.emergency()
        return os.EX_SOFTWARE
    finally:
        # One more signal is no other end: Python takes its handlers back while it leaves.
        signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
        control.remove(settings.mepd.pidfile)
        writer.close()


def main(argv: list[str] | None = None, environ: Mapping[str, str] = os.environ) -> int:
    """Run mepd; returns a sysexits(3) code. ``environ`` is for %(ENV_X)s in mepd.conf."""
    descriptors.standard_streams()
    args = _arguments(sys.argv[1:] if argv is None else argv)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # ignored, it hides every end
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)  # a process that has ended is an error
    rlimits.no_core_dumps_yet()  # the memory of mepd and its children holds credentials
    ready = daemon.Readiness(-1)
    try:
        settings = _load(args.configuration, environ)
        if not args.nodaemon:
            ready = _daemonize()
        return _run(args, settings, ready)
    except StartupError as e:
        if logging.getLogger().handlers:
            log.critical("not started: %s", e.message)
            logging.shutdown()
        text = f"mepd: {e.message}\n"
        sys.stderr.write(text)
        ready.tell(e.code, text)
        return e.code
