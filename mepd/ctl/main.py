"""mepctl(8): the command line. Each group of subcommands has a file of its own."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import click

import mepd
from mepd.errors import ConfigError, ControlError, MepdError
from mepd.posix import descriptors

DEFAULT_CONFIG = Path("/etc/mepd/mepd.conf")


@dataclass(frozen=True)
class Target:
    """Which mepd is meant."""

    config: Path | None
    socket: Path | None

    def socket_path(self) -> Path:
        """The control socket: named, or as the configuration says, also where there is an
        error elsewhere in it. Raises ConfigError."""
        if self.socket is not None:
            return self.socket
        from mepd.config import ini
        from mepd.config.settings import ControlSection

        path = self.config or DEFAULT_CONFIG
        try:
            return ini.load_control(path).file
        except PermissionError as e:
            if self.config is not None:
                text = f"{explain(e)}; name the control socket with -s"
                raise ControlError(text, os.EX_NOPERM) from None
        except FileNotFoundError:
            if self.config is not None:
                raise
        except ConfigError as e:
            try:
                found = ini.salvage_control(path).file
            except (ConfigError, OSError):
                raise e from None
            click.echo(f"mepctl: {e}", err=True)
            return found
        return ControlSection().file

    def call(self, verb: str, **args: Any) -> Any:
        """Ask mepd. Raises ControlError."""
        from mepd.ctl import client

        return client.call(self.socket_path(), verb, **args)

    def call_patiently(self, verb: str, **args: Any) -> Any:
        """As :meth:`call`, for what takes as long as programs and user endpoints take."""
        from mepd.ctl import client

        return client.call(self.socket_path(), verb, client.PATIENCE_S, **args)

    def follow(self, verb: str, **args: Any) -> Iterator[Any]:
        """Answers without end. Raises ControlError."""
        from mepd.ctl import client

        return client.follow(self.socket_path(), verb, **args)


def _meant(ctx: click.Context, parameter: click.Parameter, value: Path | None) -> None:
    """-c and -s after the command's name count as before it."""
    if value is not None and isinstance(ctx.obj, Target):
        ctx.obj = replace(ctx.obj, **{str(parameter.name): value})


def _which_mepd() -> list[click.Option]:
    kinds: dict[str, Any] = {"expose_value": False, "callback": _meant}
    path = click.Path(path_type=Path)
    return [
        click.Option(["-c", "--configuration", "config"], type=path, hidden=True, **kinds),
        click.Option(["-s", "--socket", "socket"], type=path, hidden=True, **kinds),
    ]


class _Group(click.Group):
    """Commands by name, imported when they are called."""

    COMMANDS = {
        "status": "status",
        "version": "status",
        "whoami": "status",
        "list": "listing",
        "show": "show",
        "kill": "kill",
        "reap": "kill",
        "drain": "steer",
        "start": "steer",
        "stop": "steer",
        "restart": "steer",
        "reload": "reload",
        "shutdown": "reload",
        "events": "events",
        "failures": "events",
        "tail": "tail",
        "check": "check",
        "map": "preview",
        "render": "preview",
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
        if not isinstance(found, click.Command):
            return None
        taken = {option for parameter in found.params for option in parameter.opts}
        found.params += [p for p in _which_mepd() if not taken & set(p.opts)]
        return found


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


def exit_code(error: OSError) -> int:
    """A file that was named cannot be read; else it is what is open already, as the output."""
    return os.EX_NOINPUT if error.filename else os.EX_IOERR


def say(message: str) -> None:
    """To standard error, if that can be written: what counts then is the exit code."""
    lines = message.split("\n")
    text = "\n".join("".join(c if c.isprintable() else "?" for c in line) for line in lines)
    try:
        click.echo(f"mepctl: {text}", err=True)
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)


def _fail(message: str, code: int) -> int:
    say(message)
    return code


def main(argv: list[str] | None = None) -> int:
    """Run mepctl; returns its exit code: sysexits(3), or LSB's for ``status``."""
    descriptors.standard_streams()
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
        return _fail(explain(e), exit_code(e))


if __name__ == "__main__":
    sys.exit(main())
