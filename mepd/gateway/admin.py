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

from mepd.errors import ConfigError
from mepd.gateway import accounts
from mepd.gateway.config import load
from mepd.gateway.database import Database

TOKEN_SCOPES = f"{accounts.COMPUTE_SCOPE} openid email profile"
DAY_S = 86400.0

_config = click.option(
    "--config", "-c", type=click.Path(path_type=Path), required=True, help="gateway.yaml"
)
_as_json = click.option("--json", "as_json", is_flag=True, help="Print a JSON object.")


def _open(config: Path) -> Database:
    db = Database(load(config).database)
    db.create()
    return db


def _print(values: dict[str, Any], as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps(values))
        return
    for key, value in values.items():
        click.echo(f"{key}: {value}")


def _when(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(seconds))


@click.group()
def identity() -> None:
    """Identities: who may use the service."""


@identity.command("add")
@_config
@click.argument("username")
@click.option("--name", help="Full name.")
@click.option("--email")
@click.option("--organization")
@click.option("--id", "ident", help="A UUID, for an identity that has one elsewhere.")
@_as_json
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
    db = _open(config)
    new = db.write(accounts.add_identity, username, name, email, organization, ident)
    _print({"identity_id": new, "username": username}, as_json)


@identity.command("list")
@_config
@_as_json
def identity_list(config: Path, as_json: bool) -> None:
    """List the identities; linked ones share the last column."""
    for row in _open(config).read(accounts.list_identities):
        if as_json:
            click.echo(json.dumps({**accounts.identity_json(row), "person": row.person}))
        else:
            click.echo(f"{row.id}  {row.username}  {row.email or '-'}  {row.person}")


@identity.command("link")
@_config
@click.argument("first")
@click.argument("second")
def identity_link(config: Path, first: str, second: str) -> None:
    """Link two identities (id or user name) as those of one person."""
    _open(config).write(accounts.link_identities, first, second)


@click.group()
def client() -> None:
    """Clients: an id and a secret with which programs act for an identity."""


@client.command("add")
@_config
@click.argument("identity")
@click.option("--name", help="What the client is for.")
@_as_json
def client_add(config: Path, identity: str, name: str | None, as_json: bool) -> None:
    """Add a client of an identity (id or user name); prints its id and secret."""
    client_id, secret = _open(config).write(accounts.add_client, identity, name)
    _print({"client_id": client_id, "client_secret": secret}, as_json)


@client.command("list")
@_config
def client_list(config: Path) -> None:
    """List the clients."""
    for row in _open(config).read(accounts.list_clients):
        state = "revoked" if row.revoked else "active"
        click.echo(f"{row.id}  {row.username}  {state}  {_when(row.created)}  {row.name or '-'}")


@client.command("revoke")
@_config
@click.argument("client_id")
def client_revoke(config: Path, client_id: str) -> None:
    """End a client and all its tokens."""
    _open(config).write(accounts.revoke_client, client_id)


@click.group()
def token() -> None:
    """Bearer tokens."""


@token.command("add")
@_config
@click.argument("identity")
@click.option("--days", type=click.FloatRange(min=0, min_open=True), default=30.0)
@click.option("--scope", default=TOKEN_SCOPES, help="Scopes, separated by blanks.")
@_as_json
def token_add(config: Path, identity: str, days: float, scope: str, as_json: bool) -> None:
    """Add a token of an identity (id or user name); prints its id and the token."""
    ident, secret = _open(config).write(accounts.add_token, identity, days * DAY_S, scope)
    _print({"token_id": ident, "token": secret}, as_json)


@token.command("list")
@_config
def token_list(config: Path) -> None:
    """List the tokens by id."""
    now = time.time()
    for row in _open(config).read(accounts.list_tokens):
        state = "revoked" if row.revoked else "expired" if row.expires < now else "active"
        click.echo(f"{row.id}  {row.username}  {state}  until {_when(row.expires)}")


@token.command("revoke")
@_config
@click.argument("token_id", required=False)
def token_revoke(config: Path, token_id: str | None) -> None:
    """End a token, named by its id, or itself on standard input."""
    secret = token_id or sys.stdin.readline().strip()
    _open(config).write(accounts.revoke_token, secret)


COMMANDS = (
    identity_add,
    identity_list,
    identity_link,
    client_add,
    client_list,
    client_revoke,
    token_add,
    token_list,
    token_revoke,
)
