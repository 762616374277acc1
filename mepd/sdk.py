"""For researchers: a stock globus_compute_sdk.Client for a gateway at any address."""

from __future__ import annotations

from typing import Any

import globus_sdk
from globus_compute_sdk import Client
from globus_sdk.authorizers import AccessTokenAuthorizer, GlobusAuthorizer


def _authorizer(url: str, client_id: str, client_secret: str) -> GlobusAuthorizer:
    """Client credentials at the gateway; tokens are renewed as they expire."""
    auth = globus_sdk.ConfidentialAppAuthClient(client_id, client_secret, base_url=url)
    return globus_sdk.ClientCredentialsAuthorizer(auth, Client.FUNCX_SCOPE)


def client(
    url: str,
    token: str | None = None,
    client_id: str | None = None,
    client_secret: str | None = None,
    **kwargs: Any,
) -> Client:
    """A Client for the gateway at ``url``, with a token or a client's credentials.

    ``kwargs`` are those of Client. Raises ValueError without either, and what Client
    raises.
    """
    if token is not None:
        authorizer: GlobusAuthorizer = AccessTokenAuthorizer(token)
    elif client_id is not None and client_secret is not None:
        authorizer = _authorizer(url, client_id, client_secret)
    else:
        raise ValueError("either token, or client_id and client_secret, must be given")
    check = kwargs.pop("do_version_check", True)
    made = Client(authorizer=authorizer, do_version_check=False, **kwargs)
    made.web_service_address = url
    web = made._compute_web_client  # the only place where the SDK keeps the address
    web.v2.base_url = web.v3.base_url = url
    if check:
        made.version_check()
    return made
