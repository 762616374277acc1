"""A browser at a page: its session, its forms, and where it may be sent.

Two cookies: the session's, and one that every form's hidden token is derived from, so that
no other site can have a form submitted (OWASP, "signed double submit"; the token also
depends on the session). Neither can be read by scripts.
"""

from __future__ import annotations

import hmac
from dataclasses import dataclass, field
from urllib.parse import parse_qsl, urlsplit

from fastapi import Request, Response

from mepd.gateway import keys
from mepd.gateway.login import sessions
from mepd.gateway.login.sessions import Session
from mepd.gateway.service import Service

LOGIN = "/v2/web/login"
CALLBACK = "/v2/web/login/callback"
LOGOUT = "/v2/web/logout"
AUTHORIZE = "/v2/oauth2/authorize"
HOME = "/"
_COOKIE_MAX = 128
_NEXT_MAX = 16_384


class FormError(Exception):
    """A form that did not come from a page of this service for this browser."""


@dataclass(frozen=True)
class Browser:
    """``form_secret`` is new if the browser has shown none."""

    session: Session | None
    form_secret: str = field(repr=False)
    is_new: bool
    secure: bool

    @property
    def form_token(self) -> str:
        session = self.session.secret if self.session is not None else ""
        return keys.digest(f"form:{self.form_secret}:{session}")

    def remember(self, response: Response) -> Response:
        """Give the browser its form cookie."""
        if self.is_new:
            set_cookie(response, "form", self.form_secret, self.secure)
        return response


def _cookie_name(kind: str, secure: bool) -> str:
    return f"__Host-mepd-{kind}" if secure else f"mepd-{kind}"


def set_cookie(response: Response, kind: str, value: str, secure: bool) -> None:
    """Until the browser is closed, or the session is over."""
    response.set_cookie(
        _cookie_name(kind, secure), value, path="/", secure=secure, httponly=True, samesite="lax"
    )


def drop_cookie(response: Response, kind: str, secure: bool) -> None:
    response.delete_cookie(
        _cookie_name(kind, secure), path="/", secure=secure, httponly=True, samesite="lax"
    )


def _cookie(request: Request, kind: str, secure: bool) -> str | None:
    value = request.cookies.get(_cookie_name(kind, secure))
    return value if value and len(value) <= _COOKIE_MAX and value.isascii() else None


async def browser_of(request: Request, service: Service) -> Browser:
    """Raises StoreUnavailable."""
    secure = service.settings.public_url.startswith("https:")
    secret = _cookie(request, "session", secure)
    session = await service.db.aread(sessions.find, secret) if secret is not None else None
    form = _cookie(request, "form", secure)
    return Browser(session, form or keys.new_secret(), form is None, secure)


def _same_origin(request: Request, service: Service) -> bool:
    origin = request.headers.get("origin")
    if origin is None:
        return True
    here = {request.headers.get("host", ""), urlsplit(service.settings.public_url).netloc}
    try:
        return urlsplit(origin).netloc in here and origin != "null"
    except ValueError:
        return False


async def submitted(request: Request, service: Service, browser: Browser) -> dict[str, str]:
    """The fields of a form of ours. Raises FormError."""
    try:
        text = (await request.body()).decode("ascii")
        pairs = parse_qsl(text, keep_blank_values=True, max_num_fields=20, errors="strict")
    except ValueError:
        raise FormError from None
    form = dict(pairs)
    token = form.pop("form_token", "").encode("utf-8", "surrogatepass")
    good = hmac.compare_digest(token, browser.form_token.encode("ascii"))
    if not good or len(form) != len(pairs) - 1 or not _same_origin(request, service):
        raise FormError
    if any("\x00" in value for value in form.values()):
        raise FormError
    return form


def local_target(target: str) -> str:
    """``target`` if it is a page of this service that leads on after a login, else home."""
    path, _, query = target.partition("?")
    if path == AUTHORIZE and query.isascii() and query.isprintable() and " " not in query:
        return target if len(target) <= _NEXT_MAX and "#" not in query else HOME
    return HOME
