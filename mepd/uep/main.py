"""mepd-uep: the program of a user endpoint. See mepd-uep(8)."""

from __future__ import annotations

import gc
import logging
import os
import sys
from collections.abc import Callable
from pathlib import Path

from mepd import __version__
from mepd.errors import ConfigError, WireError
from mepd.log import LineFormatter, configure
from mepd.config import uepconfig
from mepd.uep import document as uep_document
from mepd.uep import files

log = logging.getLogger("mepd.uep")

DOCUMENT_MAX = 16 * 1024 * 1024
LOCK = "mepd-uep.lock"


def parse_args(argv: list[str]) -> tuple[str, bool]:
    """Name, and whether to die with the parent. Raises SystemExit, having said why."""
    if len(argv) == 3 and argv[0] == "start" and argv[2] == "--die-with-parent":
        if not argv[1].startswith("-"):
            return argv[1], True  # as mepd has it: without the parser's time to load
    return _parse_others(argv)


def _parse_others(argv: list[str]) -> tuple[str, bool]:
    import argparse

    parser = argparse.ArgumentParser(
        prog="mepd-uep", description="Run tasks of one user; started by mepd.", allow_abbrev=False
    )
    parser.add_argument("--version", action="version", version=f"mepd-uep {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="start")
    start = commands.add_parser("start", help="start a user endpoint", allow_abbrev=False)
    start.add_argument("name", metavar="NAME", help="its name, and that of its folder")
    start.add_argument(
        "--die-with-parent", action="store_true", help="end when the parent process ends"
    )
    args = parser.parse_args(argv)
    return args.name, args.die_with_parent


def user_folder(name: str) -> Path:
    """The UEP's own folder. Raises ConfigError for a name that is no plain file name."""
    if not name or "/" in name or name.startswith(".") or len(name) > 128:
        raise ConfigError(f"bad endpoint name {name[:140]!r}")
    base = os.environ.get("GLOBUS_COMPUTE_USER_DIR")
    try:
        parent = Path(base) if base else Path.home() / ".globus_compute"
    except RuntimeError:
        raise ConfigError("no home: HOME is not set, and no account has this uid") from None
    return parent / name


def user_name() -> str:
    """For the title only: no look-up that a slow directory service could stall."""
    return os.environ.get("USER") or os.environ.get("LOGNAME") or str(os.getuid())


def title_setter() -> Callable[[str], None]:
    from setproctitle import setproctitle

    last = ""

    def set_title(text: str) -> None:
        nonlocal last
        if text != last:
            last = text
            setproctitle(text)

    return set_title


def _start_logging() -> None:
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(LineFormatter())
    configure("mepd-uep", [handler], "info")
    # pika tells every failure several times over; the link says it once
    logging.getLogger("pika").setLevel(logging.CRITICAL)


def _read_document() -> uep_document.Document:
    with open(0, "rb", closefd=False) as stdin:
        data = stdin.read(DOCUMENT_MAX + 1)
    if len(data) > DOCUMENT_MAX:
        raise WireError(f"more than {DOCUMENT_MAX} bytes")
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)
    return uep_document.parse(data)


def _die_with_parent(parent: int) -> None:
    from mepd.posix.parent import die_with_parent

    die_with_parent(parent)


def _take_folder(name: str) -> Path:
    """Make and lock the folder. Raises ConfigError, OSError, BlockingIOError."""
    folder = user_folder(name)
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if files.lock(folder / LOCK) is None:
        raise BlockingIOError(f"another mepd-uep serves {folder}")
    return folder


def _refuse(document: uep_document.Document, text: str, code: int) -> int:
    from mepd.uep.refusal import report_failure

    log.critical("cannot start: %s", text)
    report_failure(document, text)
    return code


def configuration(document: uep_document.Document) -> uepconfig.UepConfig:
    """Raises ConfigError naming line or key."""
    if document.config_values is not None:
        return uepconfig.check(document.config_values)
    return uepconfig.parse(document.config)


def serve(name: str, document: uep_document.Document) -> int:
    """Run the endpoint to its end; the exit code."""
    try:
        config = configuration(document)
        folder = _take_folder(name)
    except ConfigError as e:
        return _refuse(document, f"configuration: {e}", os.EX_CONFIG)
    except BlockingIOError as e:
        return _refuse(document, str(e), os.EX_TEMPFAIL)
    except OSError as e:
        return _refuse(document, f"endpoint folder: {e}", os.EX_CANTCREAT)
    if config.debug:
        logging.getLogger().setLevel(logging.DEBUG)
    if config.ignored:
        log.info("configuration keys without meaning here: %s", ", ".join(config.ignored))
    from mepd.uep.endpoint import Endpoint

    try:
        endpoint = Endpoint(name, user_name(), folder, document, config, title_setter())
        gc.freeze()
        gc.enable()
        return endpoint.run()
    except (OSError, RuntimeError) as e:  # the latter for want of a thread
        return _refuse(document, f"the operating system refuses: {e}", os.EX_OSERR)


def main(argv: list[str] | None = None) -> int:
    parent = os.getppid()
    name, die_with_parent = parse_args(sys.argv[1:] if argv is None else argv)
    if os.isatty(0):
        print(
            "mepd-uep: stdin is a terminal; a user endpoint is started by mepd(8), which"
            " passes its credentials and configuration on stdin",
            file=sys.stderr,
        )
        return os.EX_USAGE
    _start_logging()
    try:
        if die_with_parent:
            _die_with_parent(parent)
        document = _read_document()
    except ProcessLookupError:
        log.critical("cannot start: the parent has gone")
        return os.EX_TEMPFAIL
    except (WireError, OSError) as e:
        log.critical("cannot start: stdin: %s", e)
        return os.EX_DATAERR
    return serve(name, document)
