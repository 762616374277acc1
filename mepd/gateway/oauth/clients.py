"""The clients of OAuth: those with a secret, and applications without one.

An application (RFC 8252, "native app") is known by its id alone, so it gets tokens only
for a person who has logged in and agreed, and only with PKCE.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from sqlalchemy import Connection, Row, select, update

from mepd.errors import ConfigError
from mepd.gateway.authschema import apps, grants, redirect_uris
from mepd.gateway.oauth.grants import revoke_grant
from mepd.gateway.schema import clients
from mepd.gateway.urls import is_secure, split

SDK_APP = "4cf29807-cf21-49ec-9443-ff9a3fb9f81c"
"""The id under which globus_compute_sdk 4.19 logs a person in."""
SDK_APP_NAME = "Globus Compute SDK"
CODE_PAGE = "/v2/web/auth-code"
LOOPBACK = ("127.0.0.1", "[::1]", "localhost")


@dataclass(frozen=True)
class Application:
    """Who asks for a login. ``redirects``: what is registered for it."""

    id: str
    name: str
    public: bool
    redirects: frozenset[str]


def code_pages(public_url: str) -> dict[str, str]:
    """The addresses of the page that shows a code, on the loopback under all its names.

    What a client may call it -> where it is. globus_sdk appends the path to the service's
    address as it is given, without a slash between them if that has none.
    """
    parts = urlsplit(public_url)
    hosts = {parts.netloc}
    name, colon, port = parts.netloc.rpartition(":")
    if colon and name in LOOPBACK:
        hosts |= {f"{other}:{port}" for other in LOOPBACK}
    found = {}
    for host in hosts:
        base = f"{parts.scheme}://{host}{parts.path}"
        found[base + CODE_PAGE] = found[base + CODE_PAGE.lstrip("/")] = base + CODE_PAGE
    return found


def find(tx: Connection, client_id: str) -> Application | None:
    """The client with this id, unless it is unknown or revoked."""
    uris = select(redirect_uris.c.uri).where(redirect_uris.c.client_id == client_id)
    redirects = frozenset(tx.execute(uris).scalars())
    app = tx.execute(select(apps).where(apps.c.id == client_id)).first()
    if app is not None:
        return None if app.revoked else Application(app.id, app.name, True, redirects)
    if client_id == SDK_APP:
        return Application(client_id, SDK_APP_NAME, True, redirects)
    row = tx.execute(select(clients).where(clients.c.id == client_id)).first()
    if row is None or row.revoked:
        return None
    return Application(row.id, row.name or row.id, False, redirects)


def check_redirect(uri: str) -> str:
    """A redirect URI that may be registered. Raises ConfigError."""
    parts = split(uri)
    if parts is None:
        raise ConfigError(f"redirect URI {uri[:80]!r} is not acceptable")
    if not is_secure(parts):
        raise ConfigError(f"redirect URI {uri[:80]!r} must be https, or http on the loopback")
    if not parts.hostname or parts.fragment or "#" in uri or not uri.isascii() or len(uri) > 512:
        raise ConfigError(f"redirect URI {uri[:80]!r} is not acceptable")
    if not uri.isprintable() or any(c in uri for c in " \"'<>\\;,") or "@" in parts.netloc:
        raise ConfigError(f"redirect URI {uri[:80]!r} is not acceptable")
    return uri


def add_redirects(tx: Connection, client_id: str, uris: Sequence[str]) -> None:
    """Raises ConfigError."""
    for uri in dict.fromkeys(uris):
        tx.execute(redirect_uris.insert().values(client_id=client_id, uri=check_redirect(uri)))


def add_app(tx: Connection, name: str, uris: Sequence[str]) -> str:
    """A new application without a secret; returns its id. Raises ConfigError."""
    ident = str(uuid.uuid4())
    tx.execute(apps.insert().values(id=ident, name=name, created=time.time(), revoked=False))
    add_redirects(tx, ident, uris)
    return ident


def list_apps(tx: Connection) -> Sequence[Row[Any]]:
    return tx.execute(select(apps).order_by(apps.c.created)).all()


def revoke_grants_of(tx: Connection, client_id: str) -> None:
    """All that anybody has granted to the client ends."""
    for ident in tx.execute(select(grants.c.id).where(grants.c.client_id == client_id)).scalars():
        revoke_grant(tx, ident)


def revoke_app(tx: Connection, client_id: str) -> bool:
    """The application and its tokens end; False if there is none with this id."""
    if client_id == SDK_APP and not tx.execute(select(apps).where(apps.c.id == SDK_APP)).first():
        values = {"id": SDK_APP, "name": SDK_APP_NAME, "created": time.time(), "revoked": True}
        tx.execute(apps.insert().values(**values))
    elif not tx.execute(update(apps).where(apps.c.id == client_id).values(revoked=True)).rowcount:
        return False
    revoke_grants_of(tx, client_id)
    return True
