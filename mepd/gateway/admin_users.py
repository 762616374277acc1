"""The administrator's commands for people who log in by a password.

A password is read from the terminal or from standard input, never from the arguments.
"""

from __future__ import annotations

import sys
import uuid
from pathlib import Path
from typing import Any

import click
from sqlalchemy import Connection, Row

from mepd.errors import ConfigError
from mepd.gateway import accounts
from mepd.gateway.admin import AliasGroup, config_option, disable, json_option, open_store, show
from mepd.gateway.login import attempts, ends, passwords


def read_password() -> str:
    """Asked for twice at a terminal, else the first line of standard input; "" for none.

    Raises ConfigError if it is not acceptable.
    """
    if sys.stdin.isatty():
        password = str(
            click.prompt("Password", hide_input=True, confirmation_prompt=True, err=True)
        )
    else:
        line = sys.stdin.buffer.readline(passwords.MAX_BYTES + 2)
        password = line.rstrip(b"\r\n").decode("utf-8", "surrogateescape")
    if password:
        passwords.check_new(password)
    return password


def uuid_option(value: str | None) -> str | None:
    """Raises ConfigError."""
    try:
        return str(uuid.UUID(value)) if value is not None else None
    except ValueError:
        raise ConfigError("--id must be a UUID") from None


@click.group(cls=AliasGroup)
def user() -> None:
    """Users: identities that log in by a password."""


def _add(
    tx: Connection,
    username: str,
    fields: tuple[str | None, str | None, str | None, str | None],
    password_hash: str | None,
) -> str:
    ident = accounts.add_identity(tx, username, *fields)
    if password_hash is not None:
        passwords.set_password(tx, ident, password_hash)
    return ident


@user.command("add")
@config_option
@click.argument("username")
@click.option("--name", help="Full name.")
@click.option("--email")
@click.option("--organization")
@click.option("--id", "ident", help="A UUID, for an identity that has one elsewhere.")
@json_option
def user_add(
    config: Path,
    username: str,
    name: str | None,
    email: str | None,
    organization: str | None,
    ident: str | None,
    as_json: bool,
) -> None:
    """Add an identity, such as harper@example.org, and its password; prints its id.

    The password is asked for, or read from standard input.
    """
    fields = (name, email, organization, uuid_option(ident))
    password = read_password()
    made = passwords.make_hash(password) if password else None
    new = open_store(config).write(_add, username, fields, made)
    show({"identity_id": new, "username": username}, as_json)
    if made is None:
        click.echo("mepd-gateway: no password is set; see mepd-gateway user passwd", err=True)


@user.command("passwd")
@config_option
@click.argument("username")
def user_passwd(config: Path, username: str) -> None:
    """Set the password of an identity (id or user name); its logins and tokens end.

    The password is asked for, or read from standard input.
    """
    db = open_store(config)
    row = db.read(accounts.find_identity, username)
    made = passwords.make_hash(read_password())
    db.write(_set, row, made)


def _set(tx: Connection, row: Row[Any], password_hash: str) -> None:
    passwords.set_password(tx, row.id, password_hash)
    ends.end_logins(tx, row.id)
    attempts.forget(tx, row.username)


def _listed(tx: Connection) -> list[tuple[str, str, str, str]]:
    found = []
    for row in accounts.list_identities(tx):
        has = "password" if passwords.stored_hash(tx, row.id) else "no password"
        state = "disabled" if row.status == accounts.CLOSED else "active"
        found.append((row.id, row.username, state, has))
    return found


@user.command("list")
@config_option
def user_list(config: Path) -> None:
    """List the identities, and whether they can log in by a password."""
    for line in open_store(config).read(_listed):
        click.echo("  ".join(line))


@user.command("disable")
@config_option
@click.argument("username")
def user_disable(config: Path, username: str) -> None:
    """The same as identity disable."""
    disable(config, username)


@user.command("enable")
@config_option
@click.argument("username")
def user_enable(config: Path, username: str) -> None:
    """The same as identity enable."""
    open_store(config).write(ends.enable, username)


@user.command("unlock")
@config_option
@click.argument("username")
def user_unlock(config: Path, username: str) -> None:
    """Forget the failed logins of a user, who may try again at once."""
    db = open_store(config)
    row = db.read(accounts.find_identity, username)
    db.write(attempts.forget, row.username)


COMMANDS = (
    user_add,
    user_passwd,
    user_list,
    user_disable,
    user_enable,
    user_unlock,
)
