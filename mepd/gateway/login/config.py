"""The part of the gateway's configuration that is about logins."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import SplitResult, urlsplit

from mepd.errors import ConfigError
from mepd.gateway.urls import is_secure, split

OIDC_KEYS: dict[str, type | tuple[type, ...]] = {
    "issuer": str,
    "name": str,
    "credentials": str,
    "scopes": str,
    "claims": dict,
    "domains": list,
    "trust_email": bool,
}
CLAIM_KEYS: dict[str, type | tuple[type, ...]] = {
    "username": str,
    "name": str,
    "email": str,
    "organization": str,
}
DEFAULT_CLAIMS = {
    "username": "preferred_username",
    "name": "name",
    "email": "email",
    "organization": "organization",
}
_DOMAIN = re.compile(r"[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?")


@dataclass(frozen=True)
class OidcSettings:
    """An external provider. ``claims``: field of an identity -> claim that it is taken from.

    ``domains``: in which user names of this provider may be; empty: in any.
    """

    issuer: str
    name: str
    client_id: str
    client_secret: str = field(repr=False)
    scopes: str
    claims: dict[str, str]
    domains: frozenset[str]
    trust_email: bool


def check_url(url: str, key: str, path: Path) -> str:
    """An https URL, or http on the loopback, without a final slash. Raises ConfigError."""
    parts = split(url)
    if parts is None or not _is_safe(parts):
        raise ConfigError(f"{key} must be an https URL (or http on the loopback)", str(path))
    return url.rstrip("/")


def _is_safe(parts: SplitResult) -> bool:
    more = parts.query or parts.fragment or "@" in parts.netloc
    return bool(is_secure(parts) and parts.hostname and not more)


def _domains(values: list[Any], path: Path) -> frozenset[str]:
    for value in values:
        if not isinstance(value, str) or not _DOMAIN.fullmatch(value.lower()):
            raise ConfigError("oidc.domains must be a list of domains", str(path))
    return frozenset(value.lower() for value in values)


def oidc_settings(
    values: dict[str, Any], credentials: tuple[str, str], path: Path
) -> OidcSettings:
    """``values`` have been checked for unknown keys and types. Raises ConfigError."""
    if "issuer" not in values:
        raise ConfigError("oidc.issuer is missing", str(path))
    issuer = values["issuer"]
    check_url(issuer, "oidc.issuer", path)
    client_id, client_secret = credentials
    return OidcSettings(
        issuer=issuer,
        name=values.get("name", urlsplit(issuer).hostname),
        client_id=client_id,
        client_secret=client_secret,
        scopes=values.get("scopes", "openid profile email"),
        claims={**DEFAULT_CLAIMS, **values.get("claims", {})},
        domains=_domains(values.get("domains", []), path),
        trust_email=values.get("trust_email", False),
    )
