"""mepctl(8): the command line. Each group of subcommands has a file of its own."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

import mepd
from mepd.errors import ConfigError, ControlError, MepdError

DEFAULT_CONFIG = Path("/etc/mepd/mepd.conf")


@dataclass(frozen=True)
class Target:
    """Which mepd is meant."""

    config: Path | None
    socket: Path | None

    def socket_path(self) -> Path:
        """The control socket: named, or as the configuration says. Raises ConfigError."""
        if self.socket is not None:
            return self.socket
        from mepd.config import ini
        from mepd.config.settings import ControlSection

        path = self.config or DEFAULT_CONFIG
        try:
            return ini.load_control(path).file
        except (FileNotFoundError, PermissionError):
            if self.config is not None:
                raise
            return ControlSection().file

    def call(self, verb: str, **args: Any) -> Any:
        """Ask mepd. Raises ControlError."""
        from mepd.ctl.client import call

        return call(self.socket_path(), verb, **args)


class _Group(click.Group):
    """Commands by name, imported when they are called."""

    COMMANDS = {
        "status": "watch",
        "list": "watch",
        "version": "watch",
        "kill": "act",
        "reload": "act",
        "shutdown": "act",
        "start": "act",
        "configure": "configure",
        "enable-on-boot": "onboot",
        "disable-on-boot": "onboot",
    }

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted(self.COMMANDS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        module = self.COMMANDS.get(name)
        if module is None:
            return None
        import importlib

        found = getattr(importlib.import_module(f"mepd.ctl.{module}"), name.replace("-", "_") + "_")
        return found if isinstance(found, click.Command) else None


@click.group(
    cls=_Group,
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)
@click.option(
    "-c",
    "--configuration",
    type=click.Path(path_type=Path),
    envvar="MEPD_CONFIG",
    help=f"Configuration of the mepd that is meant (default {DEFAULT_CONFIG}).",
)
@click.option(
    "-s", "--socket", "socket_", type=click.Path(path_type=Path), help="Its control socket."
)
@click.version_option(mepd.__version__, prog_name="mepctl")
@click.pass_context
def cli(ctx: click.Context, configuration: Path | None, socket_: Path | None) -> None:
    """Look at and steer mepd(8)."""
    ctx.obj = Target(configuration, socket_)
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help(), err=True)
        ctx.exit(os.EX_USAGE)


def explain(error: OSError) -> str:
    """One line for an error of the system."""
    return f"{error.filename}: {error.strerror}" if error.filename else str(error)


def _fail(message: str, code: int) -> int:
    click.echo(f"mepctl: {message}", err=True)
    return code


def main(argv: list[str] | None = None) -> int:
    """Run mepctl; returns its exit code: sysexits(3), or LSB's for ``status``."""
    try:
        code = cli.main(argv, prog_name="mepctl", standalone_mode=False)
        return code if isinstance(code, int) else os.EX_OK
    except click.exceptions.Exit as e:
        return e.exit_code
    except click.Abort:
        return _fail("aborted", os.EX_USAGE)
    except click.UsageError as e:
        command = e.ctx.command_path if e.ctx else "mepctl"
        return _fail(f"{e.format_message().rstrip('.')}; see {command} --help", os.EX_USAGE)
    except click.ClickException as e:
        return _fail(e.format_message(), os.EX_DATAERR)
    except ControlError as e:
        return _fail(str(e), e.exit_code)
    except ConfigError as e:
        return _fail(str(e), os.EX_CONFIG)
    except MepdError as e:
        return _fail(str(e), os.EX_SOFTWARE)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return os.EX_IOERR
    except OSError as e:
        return _fail(explain(e), os.EX_NOINPUT)


if __name__ == "__main__":
    sys.exit(main())
