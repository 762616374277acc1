"""mepctl configure: a new endpoint's folder."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path

import click

from mepd.config import write
from mepd.ctl import output
from mepd.ctl.main import explain
from mepd.ctl.output import Printer
from mepd.errors import ControlError


config_dir_option = click.option(
    "--config-dir",
    type=click.Path(path_type=Path, file_okay=False, readable=False),
    help="Folder of the endpoints' folders.",
)


def default_directory() -> Path:
    """Where globus-compute-endpoint keeps its endpoints, too."""
    return Path(os.environ.get("GLOBUS_COMPUTE_USER_DIR") or Path.home() / ".globus_compute")


@click.command("configure")
@click.option("--multi-user", is_flag=True, help="A multi-user endpoint; mepd knows no other.")
@config_dir_option
@click.argument("words", nargs=-1, metavar="NAME")
@output.printed
def configure_(
    out: Printer, multi_user: bool, config_dir: Path | None, words: tuple[str, ...]
) -> None:
    """Make a new endpoint's folder.

    It holds five files, to be edited. --multi-user may be followed by "true", as newer
    manuals write it.
    """
    if multi_user and len(words) == 2 and words[0].lower() == "true":
        words = words[1:]
    if not multi_user or len(words) != 1:
        raise ControlError("usage: mepctl configure --multi-user NAME", os.EX_USAGE)
    (name,) = words
    directory = (config_dir or default_directory()).expanduser().absolute()
    try:
        made = write.configure(directory, name)
    except FileExistsError as e:
        raise ControlError(
            f"{e.filename}: {e.strerror}; nothing is changed", os.EX_CANTCREAT
        ) from None
    except PermissionError as e:
        raise ControlError(explain(e), os.EX_NOPERM) from None
    except OSError as e:
        raise ControlError(explain(e), os.EX_CANTCREAT) from None
    data = {field: str(path) for field, path in dataclasses.asdict(made).items()}
    out.show({"name": name, **data}, lambda: click.echo(_created(name, made)))


def _created(name: str, made: write.Written) -> str:
    """In the words of the administrator's manual."""
    return (
        f"Created multi-user profile for endpoint named <{name}>\n\n"
        f"    Configuration file: {made.config}\n\n"
        f"    Example identity mapping configuration: {made.mapping}\n\n"
        f"    User endpoint configuration template: {made.template}\n"
        f"    User endpoint configuration schema: {made.schema}\n"
        f"    User endpoint environment variables: {made.environment}\n\n"
        "Use the `start` subcommand to run it:\n\n"
        f"    $ mepctl start {name}\n"
    )
