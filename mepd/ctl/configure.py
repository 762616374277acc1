"""mepctl configure: a new endpoint's folder."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import Any

import click

from mepd.config import write
from mepd.config.names import check_name
from mepd.ctl import authpolicy, output
from mepd.ctl.main import Target, explain
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


def directory_of(config_dir: Path | None) -> Path:
    """Where the endpoints' folders are: ``config_dir``, or the usual. Raises ControlError."""
    try:
        return (config_dir or default_directory()).expanduser().absolute()
    except RuntimeError as e:  # ~NAME of nobody
        raise ControlError(f"{config_dir or '~'}: {e}", os.EX_USAGE) from None


@click.command("configure")
@click.option("--multi-user", is_flag=True, help="A multi-user endpoint; mepd knows no other.")
@config_dir_option
@authpolicy.options
@click.argument("words", nargs=-1, metavar="NAME")
@output.printed
@click.pass_obj
def configure_(
    target: Target,
    /,
    out: Printer,
    multi_user: bool,
    config_dir: Path | None,
    words: tuple[str, ...],
    **policy: Any,
) -> None:
    """Make a new endpoint's folder.

    It holds five files, to be edited. --multi-user may be followed by "true", as newer
    manuals write it. With options of authentication policies, the folder may be there
    already: then only the policy in its config.yaml changes.
    """
    wanted = authpolicy.read_options(**policy)
    if multi_user and len(words) == 2 and words[0].lower() == "true":
        words = words[1:]
    if not multi_user or len(words) != 1:
        raise ControlError("usage: mepctl configure --multi-user NAME", os.EX_USAGE)
    (name,) = words
    directory = directory_of(config_dir)
    check_name(name)
    config = directory / name / "config.yaml"
    try:
        if wanted.given and config.exists():
            ident = authpolicy.policy_id(target, wanted, name)
            authpolicy.apply(config, ident)
            out.show(
                {"name": name, "config": str(config), "policy": ident},
                lambda: click.echo(f"Authentication policy {ident} applied to {config}"),
            )
            return
        made = _make(target, wanted, directory, name)
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


def _make(
    target: Target, wanted: authpolicy.PolicyOptions, directory: Path, name: str
) -> write.Written:
    """The policy is made before the folder, but not for a folder that cannot be."""
    folder = directory / name
    if folder.exists() or folder.is_symlink() or not wanted.given:
        return write.configure(directory, name)
    ident = authpolicy.policy_id(target, wanted, name)
    made = write.configure(directory, name)
    authpolicy.apply(made.config, ident)
    return made


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
