"""What an authorization request asks for: read and checked before anything is shown.

A request whose client or redirect URI is at fault is answered to the person, never by a
redirect (RFC 6749 section 4.1.2.1); everything else goes back to the client.
"""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

from mepd.gateway.oauth.clients import Application
from mepd.gateway.oauth.errors import OAuthError
from mepd.gateway.oauth.grants import is_challenge
from mepd.gateway.oauth.scopes import group_scopes

_STATE_MAX = 2048
_NONCE_MAX = 512
_LABEL_MAX = 120


class UntrustedRequest(Exception):
    """The client or the redirect URI is unknown; the text is for the person."""


@dataclass(frozen=True)
class Needed:
    """What the session must have (globus_sdk's ``session_required_*``)."""

    identities: frozenset[str]
    domains: frozenset[str]
    policies: frozenset[str]
    mfa: bool

    @property
    def anything(self) -> bool:
        return bool(self.identities or self.domains or self.policies or self.mfa)


@dataclass(frozen=True)
class AuthorizationRequest:
    """A request of a known client. ``redirect_uri`` is what it calls the place to which
    the browser is to go with the answer, ``answer_to`` is that place."""

    client: Application
    redirect_uri: str
    answer_to: str
    state: str | None
    scopes: tuple[str, ...]
    challenge: str | None
    nonce: str | None
    offline: bool
    prompt: str | None
    label: str | None
    needed: Needed


def parse_query(query: str) -> dict[str, str]:
    """Raises UntrustedRequest for what is no query, or names something twice."""
    try:
        pairs = parse_qsl(query, keep_blank_values=True, max_num_fields=50, errors="strict")
    except ValueError:
        raise UntrustedRequest("The address is not well formed.") from None
    found = dict(pairs)
    if len(found) != len(pairs) or any("\x00" in value for value in found.values()):
        raise UntrustedRequest("The address is not well formed.")
    return found


def answer_url(redirect_uri: str, state: str | None, **values: str) -> str:
    """The redirect URI with the answer added to its query."""
    parts = urlsplit(redirect_uri)
    pairs = {**values, **({"state": state} if state is not None else {})}
    query = "&".join(q for q in (parts.query, urlencode(pairs)) if q)
    return urlunsplit(parts._replace(query=query))


def trusted_redirect(
    values: dict[str, str], client: Application | None, own: dict[str, str]
) -> str:
    """Where the answer goes: the redirect URI, which must be one of the client's by every
    character.

    ``own``: names of the page of this service that shows a code -> its address; any client
    without a secret may use it. Raises UntrustedRequest.
    """
    if client is None:
        raise UntrustedRequest("The application is not known here.")
    uri = values.get("redirect_uri", "")
    if uri in client.redirects:
        return uri
    if client.public and uri in own:
        return own[uri]
    raise UntrustedRequest("The application's redirect address is not registered here.")


def _names(text: str) -> frozenset[str]:
    return frozenset(part.strip().lower() for part in text.split(",") if part.strip())


def _challenge(values: dict[str, str], client: Application) -> str | None:
    challenge = values.get("code_challenge")
    if challenge is None:
        if client.public:
            raise OAuthError("invalid_request", "code_challenge is required (RFC 7636)")
        return None
    if values.get("code_challenge_method") != "S256" or not is_challenge(challenge):
        raise OAuthError("invalid_request", "code_challenge_method must be S256")
    return challenge


def read_request(
    values: dict[str, str], client: Application, answer_to: str
) -> AuthorizationRequest:
    """Raises OAuthError, which goes to the client."""
    if values.get("response_type") != "code":
        raise OAuthError("unsupported_response_type", "response_type must be code")
    prompt = values.get("prompt") or None
    if prompt not in (None, "login", "none", "consent"):
        raise OAuthError("invalid_request", "the service knows no such prompt")
    nonce = values.get("nonce")
    if len(values.get("state", "")) > _STATE_MAX or len(nonce or "") > _NONCE_MAX:
        raise OAuthError("invalid_request", "state or nonce is too long")
    groups = group_scopes(values.get("scope", ""))
    return AuthorizationRequest(
        client=client,
        redirect_uri=values["redirect_uri"],
        answer_to=answer_to,
        state=values.get("state"),
        scopes=tuple(scope for scopes in groups.values() for scope in scopes),
        challenge=_challenge(values, client),
        nonce=nonce,
        offline=values.get("access_type") == "offline",
        prompt=prompt,
        label=(values.get("prefill_named_grant") or "")[:_LABEL_MAX] or None,
        needed=Needed(
            _names(values.get("session_required_identities", "")),
            _names(values.get("session_required_single_domain", "")),
            _names(values.get("session_required_policies", "")),
            values.get("session_required_mfa", "").lower() == "true",
        ),
    )
