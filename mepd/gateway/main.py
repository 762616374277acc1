"""The command line of mepd-gateway(8)."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click
import setproctitle

from mepd import __version__
from mepd import log as mepd_log
from mepd.config.textfile import is_path
from mepd.errors import ConfigError, MepdError
from mepd.gateway import admin, admin_users, brokernode
from mepd.gateway.config import Settings, load
from mepd.posix.memory import give_back_large_blocks

F = TypeVar("F", bound=Callable[..., Any])


def _check_text(values: dict[str, Any]) -> None:
    """Raises UsageError for arguments that are not UTF-8, which no store can hold; a file's
    name may be so."""
    for name, value in values.items():
        texts = value if isinstance(value, tuple) else (value,)
        if any(isinstance(text, str) and not is_path(text) for text in texts):
            raise click.UsageError(f"{name} is not UTF-8")


def _clean_errors(function: F) -> F:
    """Errors that mepd raises on purpose become one line and a sysexits(3) code."""

    @functools.wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        _check_text(kwargs)
        try:
            return function(*args, **kwargs)
        except ConfigError as e:
            click.echo(f"mepd-gateway: {e}", err=True)
            sys.exit(os.EX_CONFIG)
        except (MepdError, OSError) as e:
            click.echo(f"mepd-gateway: {e}", err=True)
            sys.exit(os.EX_UNAVAILABLE)

    return wrapper  # type: ignore[return-value]


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="mepd-gateway")
def main() -> None:
    """The web service side of mepd. See mepd-gateway(8)."""
    os.umask(0o077)


async def _serve(settings: Settings) -> int:
    """Returns the exit status. Raises MepdError."""
    import uvicorn

    from mepd.gateway.app import create_app
    from mepd.gateway.connections import Connection, over_tls, raise_file_limit
    from mepd.gateway.database import Database
    from mepd.gateway.service import Service

    db = Database(settings.database)
    room = raise_file_limit()
    Connection.most = room.most
    try:
        db.create()
        service = Service(settings, db)
        http: Any = Connection
        if settings.tls_certificate and settings.tls_key:
            http = over_tls(settings.tls_certificate, settings.tls_key)
        config = uvicorn.Config(
            create_app(service),
            host=settings.host,
            port=settings.port,
            http=http,
            ws="none",
            backlog=room.at_once,
            log_config=None,
            access_log=False,  # paths hold ids, headers hold tokens; neither is for a log
            server_header=False,
            proxy_headers=bool(settings.trusted_proxies),
            forwarded_allow_ips=list(settings.trusted_proxies),
            timeout_graceful_shutdown=3,
            timeout_keep_alive=75,
        )
        server = uvicorn.Server(config)
        # its own handlers would end the process by the signal even after an orderly stop
        server.capture_signals = contextlib.nullcontext  # type: ignore[assignment]
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, setattr, server, "should_exit", True)
        with contextlib.suppress(SystemExit):  # uvicorn's answer to an address in use
            await server.serve()
        if not server.started:
            raise MepdError(f"cannot serve at {settings.host}:{settings.port}")
        return os.EX_SOFTWARE if service.failed else os.EX_OK
    finally:
        db.close()


@main.command()
@click.option("--config", "-c", type=click.Path(path_type=Path), required=True)
@_clean_errors
def serve(config: Path) -> None:
    """Serve until SIGTERM."""
    settings = load(config)
    setproctitle.setproctitle("mepd-gateway serve")
    give_back_large_blocks()
    handler = logging.StreamHandler(sys.stderr)
    mepd_log.configure("mepd-gateway", [handler], settings.log_level)
    # its warnings are about what anybody may send
    logging.getLogger("uvicorn.error").setLevel(logging.ERROR)
    logging.getLogger("pika").setLevel(logging.CRITICAL)  # one line of ours instead of seven
    sys.exit(asyncio.run(_serve(settings)))


for _group in (admin_users.user, admin.identity, admin.client, admin.token):
    main.add_command(_group)
for _command in (brokernode.broker_config, brokernode.broker):
    main.add_command(_command)
for _leaf in (*admin_users.COMMANDS, *admin.COMMANDS, brokernode.broker_config, brokernode.broker):
    if _leaf.callback is not None:
        _leaf.callback = _clean_errors(_leaf.callback)
