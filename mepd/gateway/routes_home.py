"""The page at "/", for people with a browser."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response

from mepd.gateway import home
from mepd.gateway.accounts import COMPUTE_SCOPE, Caller
from mepd.gateway.callers import ServiceDep
from mepd.gateway.login import pages
from mepd.gateway.login.browser import HOME, LOGIN, LOGOUT, browser_of
from mepd.gateway.login.routes import redirect

router = APIRouter(include_in_schema=False)


@router.get(HOME)
async def front_page(request: Request, service: ServiceDep) -> Response:
    """Endpoints and tasks of the person who is signed in; else the way to do so.

    Raises ApiError 429."""
    browser = await browser_of(request, service)
    session = browser.session
    if session is None:
        return redirect(LOGIN)
    service.rates.take(session.identity_id)
    caller = Caller(
        identity_id=session.identity_id,
        person=session.person,
        username=session.username,
        scopes=frozenset({COMPUTE_SCOPE}),
        client_id=None,
        session_id=session.id,
    )
    found = await service.db.aread(home.view, caller, service.policies)
    sign_out = pages.sign_out_form(LOGOUT, browser.form_token)
    body = home.body(found, session.username, service.presence.online, sign_out)
    return browser.remember(pages.page("Compute endpoints", body))
