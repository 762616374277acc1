"""Scopes, and whose they are."""

from __future__ import annotations

from mepd.gateway.accounts import COMPUTE_SCOPE
from mepd.gateway.oauth.errors import OAuthError

AUTH_SERVER = "auth.globus.org"
COMPUTE_SERVER = "funcx_service"
AUTH_PREFIX = "urn:globus:auth:scope:auth.globus.org:"
MANAGE_PROJECTS = AUTH_PREFIX + "manage_projects"
OPENID = ("openid", "email", "profile")
SCOPE_MAX = 256

DESCRIPTIONS = {
    COMPUTE_SCOPE: "Run your functions on endpoints, and manage your functions and endpoints",
    "openid": "Know who you are, by all your linked identities",
    "email": "See your email address",
    "profile": "See your name and organization",
    MANAGE_PROJECTS: "Manage your projects and authentication policies",
}


def describe(scope: str) -> str:
    """What a scope lets a client do, for the person who is asked."""
    return DESCRIPTIONS.get(scope, scope)


def resource_server(scope: str) -> str | None:
    """Whose scope it is; None for one that this service does not know."""
    if scope == COMPUTE_SCOPE:
        return COMPUTE_SERVER
    if scope in OPENID or scope.startswith(AUTH_PREFIX):
        return AUTH_SERVER
    return None


def group_scopes(text: str) -> dict[str, list[str]]:
    """Resource server -> scopes, in the order asked. Raises OAuthError."""
    groups: dict[str, list[str]] = {}
    for scope in text.split() or [COMPUTE_SCOPE]:
        server = resource_server(scope)
        if server is None or len(scope) > SCOPE_MAX or not scope.isprintable():
            raise OAuthError("invalid_scope", "the service knows no such scope")
        if scope not in groups.setdefault(server, []):
            groups[server].append(scope)
    return groups
