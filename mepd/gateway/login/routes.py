"""Signing in and out, by password or by an external provider."""

from __future__ import annotations

import asyncio
import logging
import time
from typing import Any
from urllib.parse import parse_qs, urlencode

from fastapi import APIRouter, Request, Response
from fastapi.responses import RedirectResponse
from sqlalchemy import Connection

from mepd.errors import ConfigError
from mepd.gateway import accounts
from mepd.gateway.callers import ServiceDep
from mepd.gateway.failures import ApiError
from mepd.gateway.login import attempts, external, pages, passwords, sessions
from mepd.gateway.login.browser import (
    CALLBACK,
    HOME,
    LOGIN,
    LOGOUT,
    Browser,
    FormError,
    browser_of,
    drop_cookie,
    local_target,
    set_cookie,
    submitted,
)
from mepd.gateway.login.provider import ProviderError
from mepd.gateway.login.sessions import Authentication
from mepd.gateway.service import Service

router = APIRouter(include_in_schema=False)
log = logging.getLogger(__name__)

_MESSAGE_MAX = 500
WRONG = "User name or password is wrong."
STALE_FORM = "This form is not valid any more. Go back, reload the page and try again."


def login_url(target: str, fresh: bool = False) -> str:
    """Where to log in and then go on to ``target``; see ``Provider.start`` for ``fresh``."""
    query = {"next": target, **({"fresh": "1"} if fresh else {})}
    return f"{LOGIN}?{urlencode(query)}"


def redirect(url: str) -> Response:
    """303: the method becomes GET."""
    return RedirectResponse(url, 303, {"Cache-Control": "no-store"})


def _target(request: Request) -> str:
    return local_target(request.query_params.get("next", HOME))


def _message(target: str) -> str | None:
    """What the application wants to say to the person."""
    values = parse_qs(target.partition("?")[2]).get("session_message", [])
    return values[0][:_MESSAGE_MAX] if values else None


def _page(
    request: Request, service: Service, browser: Browser, **more: Any
) -> Response:
    provider = service.desk.provider
    shown = None
    if provider is not None:
        query = urlencode({**request.query_params, "provider": "external"})
        shown = (provider.settings.name, f"{LOGIN}?{query}")
    answer = pages.login_page(
        browser.form_token,
        by_password=service.settings.password_login,
        provider=shown,
        message=_message(_target(request)),
        **more,
    )
    return browser.remember(answer)


@router.get(LOGIN)
async def show_login(request: Request, service: ServiceDep) -> Response:
    browser = await browser_of(request, service)
    external_wanted = request.query_params.get("provider") == "external"
    if service.desk.provider is not None:
        if external_wanted or not service.settings.password_login:
            return await _to_provider(request, service, browser)
    return _page(request, service, browser)


@router.post(LOGIN)
async def log_in(request: Request, service: ServiceDep) -> Response:
    browser = await browser_of(request, service)
    try:
        form = await submitted(request, service, browser)
    except FormError:
        return _page(request, service, browser, error=STALE_FORM, status=403)
    if not service.settings.password_login:
        return _page(request, service, browser, error=WRONG, status=403)
    return await _by_password(request, service, browser, form)


# --- by password ----------------------------------------------------------------------
def _candidate(tx: Connection, username: str) -> tuple[str, str | None] | None:
    """Identity and password hash of a user name; None if there is no such open identity."""
    try:
        row = accounts.find_identity(tx, username)
    except ConfigError:
        return None
    if row.status == accounts.CLOSED or row.username != username:
        return None
    return row.id, passwords.stored_hash(tx, row.id)


def _succeed(
    tx: Connection,
    proof: Authentication,
    old: str | None,
    lifetime: float,
    subjects: tuple[attempts.Subject, attempts.Subject],
) -> str:
    attempts.succeeded(tx, *subjects)
    return sessions.log_in(tx, proof, old, lifetime)


async def _by_password(
    request: Request, service: Service, browser: Browser, form: dict[str, str]
) -> Response:
    username, password = form.get("username", "").strip()[:256], form.get("password", "")
    host = request.client.host if request.client is not None else ""
    subjects = attempts.account(username), attempts.address(host)
    wait = await service.db.aread(attempts.must_wait, subjects)
    wait = wait or await service.db.awrite(attempts.begin, subjects)
    if wait:
        log.warning("too many failed logins from %s; refused for %d s", host, wait)
        text = f"Too many failed attempts. Try again in {wait} seconds."
        answer = _page(request, service, browser, username=username, error=text, status=429)
        answer.headers["Retry-After"] = str(wait)
        return answer
    found = await service.db.aread(_candidate, username)
    stored = found[1] if found is not None else None
    if not await service.desk.verifier.verify(stored, password) or found is None:
        log.warning("failed login from %s", host)
        return _page(request, service, browser, username=username, error=WRONG, status=403)
    if stored is not None and passwords.outdated(stored):
        better = await asyncio.to_thread(passwords.make_hash, password)
        await service.db.awrite(passwords.set_password, found[0], better)
    proof = Authentication(found[0], time.time())
    lifetime = service.settings.session_lifetime
    old = browser.session.secret if browser.session is not None else None
    secret = await service.db.awrite(_succeed, proof, old, lifetime, subjects)
    return _logged_in(_target(request), secret, browser)


def _logged_in(target: str, secret: str, browser: Browser) -> Response:
    answer = redirect(target)
    set_cookie(answer, "session", secret, browser.secure)
    return answer


# --- by an external provider ----------------------------------------------------------
async def _to_provider(request: Request, service: Service, browser: Browser) -> Response:
    provider = service.desk.provider
    assert provider is not None
    host = request.client.host if request.client is not None else ""
    try:
        service.desk.begun.take(host)
    except ApiError as e:
        answer = pages.problem("Sign in", "Too many logins were begun from your address.", 429)
        answer.headers.update(e.headers())
        return answer
    fresh = request.query_params.get("fresh") == "1"
    try:
        started = await service.desk.ask(lambda: provider.start(fresh))
    except ProviderError as e:
        log.error("login by %s: %s", provider.settings.issuer, e)
        return pages.problem("Sign in", f"{provider.settings.name} cannot be reached.", 503)
    await service.db.awrite(
        external.remember, started, browser.form_secret, _target(request), fresh
    )
    return browser.remember(redirect(started.url))


def _external(
    tx: Connection, claims: dict[str, Any], service: Service, old: str | None, fresh: bool
) -> str:
    provider = service.desk.provider
    assert provider is not None
    who = external.profile(claims, provider.settings)
    ident = external.identity_for(tx, claims["sub"], who, provider.settings.issuer)
    proof = external.authentication(ident, claims, fresh, time.time())
    return sessions.log_in(tx, proof, old, service.settings.session_lifetime)


@router.get(CALLBACK)
async def callback(request: Request, service: ServiceDep) -> Response:
    """Where the provider sends the browser back."""
    browser, provider = await browser_of(request, service), service.desk.provider
    query = request.query_params
    if provider is None:
        return pages.problem("Sign in", "There is no such login here.", 404)
    pending = await service.db.awrite(
        external.take, query.get("state", ""), browser.form_secret
    )
    if pending is None:
        return pages.problem("Sign in", "This login was not begun here, or is over.", 400)
    if "code" not in query:
        log.info("login by %s was refused there", provider.settings.issuer)
        return pages.problem("Sign in", f"{provider.settings.name} has refused the login.", 403)
    old = browser.session.secret if browser.session is not None else None
    try:
        claims = await service.desk.ask(
            lambda: provider.finish(query["code"], pending.verifier, pending.nonce_hash)
        )
        secret = await service.db.awrite(_external, claims, service, old, pending.fresh)
    except ProviderError as e:
        log.warning("login by %s: %s", provider.settings.issuer, e)
        return pages.problem("Sign in", f"The login has failed: {e}.", 403)
    return _logged_in(pending.next, secret, browser)


# --- out ------------------------------------------------------------------------------
@router.post(LOGOUT)
async def log_out(request: Request, service: ServiceDep) -> Response:
    """The browser's session ends; programs that were given access keep it."""
    browser = await browser_of(request, service)
    try:
        await submitted(request, service, browser)
    except FormError:
        return pages.problem("Sign out", STALE_FORM, 403)
    if browser.session is not None:
        await service.db.awrite(sessions.end, browser.session.id)
    answer = redirect(LOGIN)
    drop_cookie(answer, "session", browser.secure)
    return answer
