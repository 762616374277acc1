"""mepctl configure: a new endpoint's folder."""

from __future__ import annotations

import os
from pathlib import Path

import click

from mepd.ctl.main import explain
from mepd.errors import ControlError


def default_directory() -> Path:
    """Where globus-compute-endpoint keeps its endpoints, too."""
    return Path(os.environ.get("GLOBUS_COMPUTE_USER_DIR") or Path.home() / ".globus_compute")


@click.command("configure")
@click.option("--multi-user", is_flag=True, help="A multi-user endpoint; mepd knows no other.")
@click.option(
    "--config-dir",
    type=click.Path(path_type=Path, file_okay=False),
    help="Folder of the endpoints' folders.",
)
@click.argument("words", nargs=-1, metavar="NAME")
def configure_(multi_user: bool, config_dir: Path | None, words: tuple[str, ...]) -> None:
    """Make a new endpoint's folder.

    It holds five files, to be edited. --multi-user may be followed by "true", as newer
    manuals write it.
    """
    from mepd.config import write

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
    click.echo(
        f"Created multi-user profile for endpoint named <{name}>\n\n"
        f"    Configuration file: {made.config}\n\n"
        f"    Example identity mapping configuration: {made.mapping}\n\n"
        f"    User endpoint configuration template: {made.template}\n"
        f"    User endpoint configuration schema: {made.schema}\n"
        f"    User endpoint environment variables: {made.environment}\n\n"
        "Use the `start` subcommand to run it:\n\n"
        f"    $ mepctl start {name}\n"
    )
