"""An external OpenID Connect provider: discovery, authorization code with PKCE, id token.

Authlib makes the requests, joserfc checks the signature; these calls block.
"""

from __future__ import annotations

import contextlib
import time
from dataclasses import dataclass
from typing import Any

import requests
from authlib.common.errors import AuthlibBaseError
from authlib.integrations.requests_client import OAuth2Session
from cryptography.exceptions import UnsupportedAlgorithm
from joserfc import jwt
from joserfc.errors import JoseError
from joserfc.jwk import JWKRegistry, Key, KeySet

from mepd.config.textfile import is_path
from mepd.errors import MepdError
from mepd.gateway import keys
from mepd.gateway.login.config import OidcSettings
from mepd.gateway.urls import is_secure, split

TIMEOUT_S = 10.0
DISCOVERY_S = 3600.0
AWAY_S = 5.0
"""For which a provider that has not answered is not asked again."""
ALGORITHMS = ["RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "EdDSA"]
LEEWAY_S = 60
_UNREADABLE = (
    AuthlibBaseError,
    JoseError,
    UnsupportedAlgorithm,
    ArithmeticError,
    AttributeError,
    LookupError,
    RecursionError,
    TypeError,
    ValueError,
)
"""What the libraries run into where an answer has another form than they expect."""


class ProviderError(MepdError):
    """The provider cannot be reached, or what it says is not to be trusted."""


@dataclass(frozen=True)
class Started:
    """A login that begins: where the browser goes, and what must be remembered."""

    url: str
    state: str
    nonce: str
    verifier: str


def _endpoint(document: dict[str, Any], name: str) -> str:
    value = document.get(name)
    parts = split(value) if isinstance(value, str) else None
    if parts is None or not is_secure(parts):
        raise ProviderError(f"the provider's {name} is missing or not https")
    assert isinstance(value, str)
    return value


def _key_set(document: dict[str, Any]) -> KeySet:
    """The keys that are understood; others are none of ours (RFC 7517, section 5).

    Raises ProviderError if there is none.
    """
    values = document.get("keys")
    found: list[Key] = []
    for value in values if isinstance(values, list) else ():
        with contextlib.suppress(*_UNREADABLE):
            found += KeySet([JWKRegistry.import_key(value)]).keys
    if not found:
        raise ProviderError("the provider has no keys that are understood")
    return KeySet(found)


def check_claims(claims: dict[str, Any], issuer: str, client_id: str, nonce_hash: str) -> None:
    """OpenID Connect Core section 3.1.3.7, but for the signature. Raises ProviderError."""
    audience = claims.get("aud")
    audiences = [audience] if isinstance(audience, str) else audience
    expires, issued, now = claims.get("exp"), claims.get("iat"), time.time()
    subject = claims.get("sub")
    if claims.get("iss") != issuer:
        raise ProviderError("the id token is of another issuer")
    if not isinstance(audiences, list) or client_id not in audiences:
        raise ProviderError("the id token is for another client")
    if claims.get("azp", client_id) != client_id or (len(audiences) > 1 and "azp" not in claims):
        raise ProviderError("the id token is for another party")
    if not isinstance(expires, (int, float)) or not expires + LEEWAY_S >= now:  # nor NaN
        raise ProviderError("the id token has expired")
    if not isinstance(issued, (int, float)) or not issued - LEEWAY_S <= now:
        raise ProviderError("the id token is from the future")
    nonce = claims.get("nonce")
    if not isinstance(nonce, str) or not keys.matches(nonce, nonce_hash):
        raise ProviderError("the id token does not belong to this login")
    if not isinstance(subject, str) or not 0 < len(subject) <= 255 or not is_path(subject):
        raise ProviderError("the id token names no subject")


class Provider:
    """``redirect_uri``: where the provider sends the browser back."""

    def __init__(self, settings: OidcSettings, redirect_uri: str) -> None:
        self.settings = settings
        self._redirect_uri = redirect_uri
        self._document: dict[str, Any] = {}
        self._document_until = 0.0
        self._away_until = 0.0
        self._keys: KeySet | None = None

    def _get(self, url: str, token: str | None = None) -> dict[str, Any]:
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        try:
            answer = requests.get(
                url, headers=headers, timeout=TIMEOUT_S, allow_redirects=False
            )
            if answer.status_code != 200:
                raise ProviderError(f"{url} answered {answer.status_code}")
            value = answer.json()
        except (requests.RequestException, ValueError, RecursionError) as e:
            raise ProviderError(f"{url}: {type(e).__name__}") from None
        if not isinstance(value, dict):
            raise ProviderError(f"{url} answered no object")
        return value

    def document(self) -> dict[str, Any]:
        """OpenID Connect Discovery 1.0, kept for an hour. Raises ProviderError."""
        if time.monotonic() >= self._document_until:
            issuer = self.settings.issuer
            if time.monotonic() < self._away_until:
                raise ProviderError("the provider did not answer just now")
            try:
                found = self._get(issuer.rstrip("/") + "/.well-known/openid-configuration")
            except ProviderError:
                self._away_until = time.monotonic() + AWAY_S
                raise
            if found.get("issuer") != issuer:
                raise ProviderError("the provider calls itself by another issuer")
            self._document, self._keys = found, None
            self._document_until = time.monotonic() + DISCOVERY_S
        return self._document

    def _session(self, document: dict[str, Any]) -> OAuth2Session:
        methods = document.get("token_endpoint_auth_methods_supported")
        basic = not isinstance(methods, list) or "client_secret_basic" in methods
        session = OAuth2Session(
            self.settings.client_id,
            self.settings.client_secret,
            token_endpoint_auth_method="client_secret_basic" if basic else "client_secret_post",
            scope=self.settings.scopes,
            redirect_uri=self._redirect_uri,
            code_challenge_method="S256",
        )
        session.max_redirects = 0
        return session

    def start(self, fresh: bool) -> Started:
        """``fresh``: the person must prove himself anew. Raises ProviderError."""
        document = self.document()
        verifier, nonce, state = keys.new_secret(), keys.new_secret(), keys.new_secret()
        more = {"prompt": "login", "max_age": "0"} if fresh else {}
        url, _ = self._session(document).create_authorization_url(
            _endpoint(document, "authorization_endpoint"),
            state=state,
            code_verifier=verifier,
            nonce=nonce,
            **more,
        )
        return Started(url, state, nonce, verifier)

    def _verified(self, id_token: str, document: dict[str, Any]) -> dict[str, Any]:
        """The claims under a good signature; the keys are fetched again for a new one."""
        for attempt in (1, 2):
            if self._keys is None:
                self._keys = _key_set(self._get(_endpoint(document, "jwks_uri")))
            try:
                return dict(jwt.decode(id_token, self._keys, algorithms=ALGORITHMS).claims)
            except _UNREADABLE as e:
                self._keys = None
                if attempt == 2:
                    raise ProviderError(f"the id token is not acceptable: {e}") from None
        raise AssertionError("unreachable")

    def finish(self, code: str, verifier: str, nonce_hash: str) -> dict[str, Any]:
        """The claims of who has logged in. Raises ProviderError."""
        document = self.document()
        try:
            token = self._session(document).fetch_token(
                _endpoint(document, "token_endpoint"),
                code=code,
                code_verifier=verifier,
                grant_type="authorization_code",
                timeout=TIMEOUT_S,
            )
        except (requests.RequestException, *_UNREADABLE) as e:
            raise ProviderError(f"the code was refused: {type(e).__name__}") from None
        if not isinstance(token.get("id_token"), str):
            raise ProviderError("the provider has given no id token")
        claims = self._verified(token["id_token"], document)
        check_claims(claims, self.settings.issuer, self.settings.client_id, nonce_hash)
        if "userinfo_endpoint" in document:
            more = self._get(_endpoint(document, "userinfo_endpoint"), token.get("access_token"))
            if more.get("sub") != claims["sub"]:
                raise ProviderError("the provider's user information is of another subject")
            claims = {**more, **claims}
        return claims
