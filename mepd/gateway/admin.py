"""The administrator's commands: identities, clients and tokens, straight in the store.

A secret is printed once, on standard output, and nowhere else.
"""

from __future__ import annotations

import json
import sys
import time
import uuid
from pathlib import Path
from typing import Any

import click

from sqlalchemy import Connection

from mepd.errors import ConfigError
from mepd.gateway import accounts
from mepd.gateway.config import load
from mepd.gateway.database import Database
from mepd.gateway.login import ends
from mepd.gateway.oauth import clients as oauth_clients
from mepd.gateway.oauth.scopes import MANAGE_PROJECTS

TOKEN_SCOPES = f"{accounts.COMPUTE_SCOPE} openid email profile {MANAGE_PROJECTS}"
DAY_S = 86400.0
DAYS_MAX = 36_500
_LINE_MAX = 4096

config_option = click.option(
    "--config", "-c", type=click.Path(path_type=Path), required=True, help="gateway.yaml"
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print a JSON object.")


def open_store(config: Path) -> Database:
    db = Database(load(config).database)
    db.create()
    return db


def show(values: dict[str, Any], as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps(values))
        return
    for key, value in values.items():
        click.echo(f"{key}: {value}")


def _when(seconds: float) -> str:
    try:
        return time.strftime("%Y-%m-%d %H:%M", time.localtime(seconds))
    except (OverflowError, ValueError):  # of a version that took any number of days
        return "the end of time"


class AliasGroup(click.Group):
    """"create" may be said for "add"."""

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        return super().get_command(ctx, "add" if name == "create" else name)


@click.group(cls=AliasGroup)
def identity() -> None:
    """Identities: who may use the service."""


@identity.command("add")
@config_option
@click.argument("username")
@click.option("--name", help="Full name.")
@click.option("--email")
@click.option("--organization")
@click.option("--id", "ident", help="A UUID, for an identity that has one elsewhere.")
@json_option
def identity_add(
    config: Path,
    username: str,
    name: str | None,
    email: str | None,
    organization: str | None,
    ident: str | None,
    as_json: bool,
) -> None:
    """Add an identity, such as harper@example.org; prints its id."""
    try:
        ident = str(uuid.UUID(ident)) if ident is not None else None
    except ValueError:
        raise ConfigError("--id must be a UUID") from None
    db = open_store(config)
    new = db.write(accounts.add_identity, username, name, email, organization, ident)
    show({"identity_id": new, "username": username}, as_json)


@identity.command("list")
@config_option
@json_option
def identity_list(config: Path, as_json: bool) -> None:
    """List the identities; linked ones share the last column."""
    for row in open_store(config).read(accounts.list_identities):
        if as_json:
            click.echo(json.dumps({**accounts.identity_json(row), "person": row.person}))
        else:
            click.echo(f"{row.id}  {row.username}  {row.email or '-'}  {row.person}")


@identity.command("link")
@config_option
@click.argument("first")
@click.argument("second")
def identity_link(config: Path, first: str, second: str) -> None:
    """Link two identities (id or user name) as those of one person."""
    open_store(config).write(accounts.link_identities, first, second)


@identity.command("unlink")
@config_option
@click.argument("identity")
def identity_unlink(config: Path, identity: str) -> None:
    """Make an identity (id or user name) a person of its own again; its logins end."""
    open_store(config).write(ends.unlink, identity)


@identity.command("disable")
@config_option
@click.argument("identity")
def identity_disable(config: Path, identity: str) -> None:
    """Refuse an identity (id or user name) everywhere, from now on; its sessions, tokens
    and broker accounts end."""
    disable(config, identity)


@identity.command("enable")
@config_option
@click.argument("identity")
def identity_enable(config: Path, identity: str) -> None:
    """Let a disabled identity (id or user name) in again."""
    open_store(config).write(ends.enable, identity)


def disable(config: Path, who: str) -> None:
    """See ``identity disable``. Raises ConfigError."""
    open_store(config).write(ends.disable, who)


@click.group(cls=AliasGroup)
def client() -> None:
    """Clients: programs that act for an identity, or log people in."""


def _add_client(
    tx: Connection, identity: str, name: str | None, uris: tuple[str, ...]
) -> tuple[str, str]:
    client_id, secret = accounts.add_client(tx, identity, name)
    oauth_clients.add_redirects(tx, client_id, uris)
    return client_id, secret


@client.command("add")
@config_option
@click.argument("identity", required=False)
@click.option("--name", help="What the client is for.")
@click.option("--native", is_flag=True, help="An application without a secret.")
@click.option("--redirect-uri", "uris", multiple=True, help="Where a login may lead back to.")
@json_option
def client_add(
    config: Path,
    identity: str | None,
    name: str | None,
    native: bool,
    uris: tuple[str, ...],
    as_json: bool,
) -> None:
    """Add a client of an identity (id or user name); prints its id and secret.

    With --native, which takes no identity, add an application that logs people in.
    """
    if native == (identity is not None):
        raise click.UsageError("either an identity or --native must be given")
    db = open_store(config)
    if identity is None:
        if not name:
            raise click.UsageError("--native needs --name, which people see at the login")
        show({"client_id": db.write(oauth_clients.add_app, name, uris)}, as_json)
        return
    client_id, secret = db.write(_add_client, identity, name, uris)
    show({"client_id": client_id, "client_secret": secret}, as_json)


@client.command("list")
@config_option
def client_list(config: Path) -> None:
    """List the clients; applications without a secret have no user name."""
    db = open_store(config)
    found = [(row, row.username) for row in db.read(accounts.list_clients)]
    found += [(row, "-") for row in db.read(oauth_clients.list_apps)]
    for row, username in sorted(found, key=lambda pair: pair[0].created):
        state = "revoked" if row.revoked else "active"
        click.echo(f"{row.id}  {username}  {state}  {_when(row.created)}  {row.name or '-'}")


def _revoke_client(tx: Connection, client_id: str) -> None:
    if not oauth_clients.revoke_app(tx, client_id):
        accounts.revoke_client(tx, client_id)
        oauth_clients.revoke_grants_of(tx, client_id)


@client.command("revoke")
@config_option
@click.argument("client_id")
def client_revoke(config: Path, client_id: str) -> None:
    """End a client and all its tokens."""
    open_store(config).write(_revoke_client, client_id)


@click.group(cls=AliasGroup)
def token() -> None:
    """Bearer tokens."""


def _days(_ctx: click.Context, _param: click.Parameter, value: float) -> float:
    if not 0 < value <= DAYS_MAX:  # nor is NaN
        raise click.BadParameter(f"must be greater than 0, and at most {DAYS_MAX:,}")
    return value


@token.command("add")
@config_option
@click.argument("identity")
@click.option("--days", type=float, default=30.0, callback=_days)
@click.option("--scope", default=TOKEN_SCOPES, help="Scopes, separated by blanks.")
@json_option
def token_add(config: Path, identity: str, days: float, scope: str, as_json: bool) -> None:
    """Add a token of an identity (id or user name); prints its id and the token."""
    ident, secret = open_store(config).write(accounts.add_token, identity, days * DAY_S, scope)
    show({"token_id": ident, "token": secret}, as_json)


@token.command("list")
@config_option
def token_list(config: Path) -> None:
    """List the tokens by id."""
    now = time.time()
    for row in open_store(config).read(accounts.list_tokens):
        state = "revoked" if row.revoked else "expired" if row.expires < now else "active"
        click.echo(f"{row.id}  {row.username}  {state}  until {_when(row.expires)}")


@token.command("revoke")
@config_option
@click.argument("token_id", required=False)
@click.option("--identity", help="End all tokens and logins of this identity.")
def token_revoke(config: Path, token_id: str | None, identity: str | None) -> None:
    """End a token, named by its id, or itself on standard input."""
    if identity is not None and token_id is not None:
        raise click.UsageError("either a token or --identity must be given")
    if identity is not None:
        open_store(config).write(ends.log_out, identity)
        return
    line = b"" if token_id else sys.stdin.buffer.readline(_LINE_MAX)
    secret = token_id or line.decode("ascii", "replace").strip()
    open_store(config).write(accounts.revoke_token, secret)


COMMANDS = (
    identity_add,
    identity_list,
    identity_link,
    identity_unlink,
    identity_disable,
    identity_enable,
    client_add,
    client_list,
    client_revoke,
    token_add,
    token_list,
    token_revoke,
)
