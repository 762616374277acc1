"""The bodies of the token routes, and the client that sends them."""

from __future__ import annotations

import base64
import binascii
from dataclasses import dataclass
from urllib.parse import parse_qsl, unquote_plus

from fastapi import Request

from mepd.gateway import accounts
from mepd.gateway.oauth import clients
from mepd.gateway.oauth.errors import OAuthError
from mepd.gateway.service import Service


@dataclass(frozen=True)
class Client:
    """``identity_id``: as whom a client with a secret acts; None for an application."""

    id: str
    identity_id: str | None


async def read_form(request: Request) -> dict[str, str]:
    """Raises OAuthError, also for a parameter that comes twice (RFC 6749 section 3.2)."""
    try:
        text = (await request.body()).decode("ascii")
        pairs = parse_qsl(text, keep_blank_values=True, max_num_fields=50, errors="strict")
    except ValueError:
        raise OAuthError("invalid_request", "the body is no form") from None
    form = dict(pairs)
    if len(form) != len(pairs):
        raise OAuthError("invalid_request", "a parameter comes more than once")
    return form


def _basic(header: str) -> tuple[str, str]:
    scheme, _, value = header.partition(" ")
    try:
        if scheme.lower() != "basic":
            raise ValueError
        text = base64.b64decode(value.strip(), validate=True).decode()
        user, _, password = text.partition(":")
    except (ValueError, binascii.Error):
        raise OAuthError("invalid_client", "bad Authorization header", 401) from None
    return unquote_plus(user), unquote_plus(password)


def _refused() -> OAuthError:
    return OAuthError("invalid_client", "unknown client or wrong secret", 401)


async def client_of(service: Service, request: Request, form: dict[str, str]) -> Client:
    """The client: by its secret (Basic, or in the form), or an application by its id.

    Raises OAuthError.
    """
    header = request.headers.get("authorization")
    if header is not None:
        client_id, secret = _basic(header)
    else:
        client_id, secret = form.get("client_id", ""), form.get("client_secret", "")
    client_id = client_id.lower()
    if "\x00" in client_id or not client_id.isascii():
        raise _refused()
    if not secret:
        app = await service.db.aread(clients.find, client_id)
        if app is None or not app.public:
            raise _refused()
        return Client(client_id, None)
    identity = await service.db.aread(accounts.check_client, client_id, secret)
    if identity is None:
        raise _refused()
    return Client(client_id, identity)
