"""The authorization endpoint: login if need be, consent, code."""

from __future__ import annotations

import re
import time
from urllib.parse import urlencode

from fastapi import APIRouter, Request, Response
from sqlalchemy import Connection

from mepd.gateway.callers import ServiceDep
from mepd.gateway.login import pages, sessions
from mepd.gateway.login.browser import AUTHORIZE, Browser, FormError, browser_of, submitted
from mepd.gateway.login.routes import STALE_FORM, login_url, redirect
from mepd.gateway.login.sessions import Session
from mepd.gateway.oauth import clients, consents, grants
from mepd.gateway.oauth.clients import CODE_PAGE, code_pages
from mepd.gateway.oauth.errors import OAuthError
from mepd.gateway.oauth.request import (
    AuthorizationRequest,
    Needed,
    UntrustedRequest,
    answer_url,
    parse_query,
    read_request,
    trusted_redirect,
)
from mepd.gateway.oauth.scopes import describe
from mepd.gateway.policy import store
from mepd.gateway.policy.model import satisfied
from mepd.gateway.service import Service

router = APIRouter(include_in_schema=False)

_CODE = re.compile(r"[A-Za-z0-9]{16,128}")


def _untrusted(problem: UntrustedRequest) -> Response:
    return pages.problem("This request cannot be answered", str(problem), 400)


def meets(tx: Connection, session: Session, needed: Needed) -> bool:
    """Whether the session has what the request needs of it."""
    proofs = {proof.identity_id: proof for proof in session.authentications}
    standing = store.standing_of(tx, session.person, session.id)
    domains = {i.domain for i in standing.identities if i.id in proofs}
    if not needed.identities <= set(proofs):
        return False
    if needed.domains and needed.domains.isdisjoint(domains):
        return False
    if needed.mfa and not any(proof.mfa for proof in proofs.values()):
        return False
    found = [store.load_policy(tx, ident) for ident in needed.policies]
    return all(p is not None and satisfied(p, standing, time.time()) for p in found)


class _Asked:
    """One authorization request by one browser, until it has its answer."""

    def __init__(self, service: Service, browser: Browser, values: dict[str, str]) -> None:
        self.service = service
        self.browser = browser
        self.values = values

    def _again(self) -> str:
        """The request for after a login that it has demanded."""
        rest = {k: v for k, v in self.values.items() if k != "prompt"}
        return f"{AUTHORIZE}?{urlencode(rest)}"

    def to_login(self, asked: AuthorizationRequest, fresh: bool) -> Response:
        if asked.prompt == "none":
            return refused(asked, "login_required", "the person must log in")
        return redirect(login_url(self._again(), fresh))

    async def session(self, asked: AuthorizationRequest) -> Session | Response:
        """The session that is good enough, or where to get one."""
        session = self.browser.session
        if session is None or asked.prompt == "login":
            return self.to_login(asked, asked.prompt == "login" or asked.needed.anything)
        if asked.needed.anything:
            if not await self.service.db.aread(meets, session, asked.needed):
                return self.to_login(asked, True)
        return session


def refused(asked: AuthorizationRequest, error: str, description: str) -> Response:
    """RFC 6749 section 4.1.2.1."""
    values = {"error": error, "error_description": description}
    return redirect(answer_url(asked.answer_to, asked.state, **values))


async def _read(
    service: Service, values: dict[str, str]
) -> AuthorizationRequest | Response:
    """Raises UntrustedRequest."""
    client_id = values.get("client_id", "").lower()
    client = await service.db.aread(clients.find, client_id)
    own = code_pages(service.settings.public_url)
    place = trusted_redirect(values, client, own)
    assert client is not None
    try:
        return read_request(values, client, place)
    except OAuthError as e:
        answer = {"error": e.error, "error_description": e.description}
        return redirect(answer_url(place, values.get("state"), **answer))


@router.get(AUTHORIZE)
async def authorize(request: Request, service: ServiceDep) -> Response:
    """Asks the person to log in and to consent; ends by a redirect to the client."""
    try:
        values = parse_query(request.url.query)
        asked = await _read(service, values)
    except UntrustedRequest as e:
        return _untrusted(e)
    if isinstance(asked, Response):
        return asked
    browser = await browser_of(request, service)
    session = await _Asked(service, browser, values).session(asked)
    if isinstance(session, Response):
        return session
    if asked.prompt == "none":
        return refused(asked, "consent_required", "the person must consent")
    return browser.remember(
        pages.consent_page(
            browser.form_token,
            username=session.username,
            client=asked.client.name,
            label=asked.label,
            scopes=[describe(scope) for scope in asked.scopes],
            leads_to=asked.answer_to,
        )
    )


def _grant(tx: Connection, asked: AuthorizationRequest, session: Session) -> str:
    """The consent is kept, and a code is made."""
    identity_id = sessions.effective(tx, session.identity_id)
    consents.give(tx, identity_id, asked.client.id, asked.scopes, asked.offline)
    return grants.add_code(
        tx,
        grants.Request(
            client_id=asked.client.id,
            identity_id=identity_id,
            session_id=session.id,
            redirect_uri=asked.redirect_uri,
            scope=" ".join(asked.scopes),
            challenge=asked.challenge,
            nonce=asked.nonce,
            offline=asked.offline,
        ),
    )


@router.post(AUTHORIZE)
async def decide(request: Request, service: ServiceDep) -> Response:
    """The person's decision."""
    try:
        values = parse_query(request.url.query)
        asked = await _read(service, values)
    except UntrustedRequest as e:
        return _untrusted(e)
    if isinstance(asked, Response):
        return asked
    browser = await browser_of(request, service)
    try:
        form = await submitted(request, service, browser)
    except FormError:
        return pages.problem("Allow access?", STALE_FORM, 403)
    session = await _Asked(service, browser, {**values, "prompt": ""}).session(asked)
    if isinstance(session, Response):
        return session
    if form.get("decision") != "allow":
        return refused(asked, "access_denied", "the person has refused")
    code = await service.db.awrite(_grant, asked, session)
    return redirect(answer_url(asked.answer_to, asked.state, code=code))


@router.get(CODE_PAGE)
async def auth_code(code: str = "", error: str = "") -> Response:
    """Shows a code to be pasted into a program."""
    if _CODE.fullmatch(code):
        return pages.code_page(code)
    if error:
        return pages.problem("No access was given", "The application gets no access.", 403)
    return pages.problem("Authorization code", "There is no code in this address.", 400)
