"""The web application: routes, bounds, and one form for all errors."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import AsyncIterator

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mepd import __version__
from mepd.gateway import routes_broker, routes_home, routes_operation, routes_registry, routes_tasks
from mepd.gateway.failures import ApiError, BrokerDown, StoreUnavailable, invalid, unavailable
from mepd.gateway.limits import BodyLimit
from mepd.gateway.login import routes as routes_login
from mepd.gateway.metrics import Meter
from mepd.gateway.oauth import routes_authorize, routes_info, routes_token
from mepd.gateway.oauth.errors import OAuthError
from mepd.gateway.policy import routes as routes_policy
from mepd.gateway.service import Service

log = logging.getLogger(__name__)

_CODES = {400: "REQUEST_MALFORMED", 404: "NOT_FOUND", 405: "METHOD_NOT_ALLOWED"}


def _answer(error: ApiError) -> JSONResponse:
    return JSONResponse(error.body(), error.status, error.headers())


def _api_error(_request: Request, error: Exception) -> Response:
    assert isinstance(error, ApiError)
    return _answer(error)


def _oauth_error(_request: Request, error: Exception) -> Response:
    assert isinstance(error, OAuthError)
    return error.response()


def _invalid(_request: Request, error: Exception) -> Response:
    """Names the field at fault, never its value."""
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    where = ".".join(str(part)[:60] for part in first["loc"])
    return _answer(invalid(f"{where}: {first['msg']}"))


def _http_error(_request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    code = _CODES.get(error.status_code, "HTTP_ERROR")
    answer = _answer(ApiError(error.status_code, code, str(error.detail)))
    answer.headers.update(error.headers or {})
    return answer


def _unavailable(request: Request, error: Exception) -> Response:
    log.warning("%s %s: %s", request.method, request.url.path, error)
    told = StoreUnavailable.TOLD if isinstance(error, StoreUnavailable) else str(error)
    return _answer(unavailable(told))


class Guard:
    """The last resort (ASGI middleware): an unexpected error is logged once, answered 500."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        started = False

        async def watch(message: Message) -> None:
            nonlocal started
            started = started or message["type"] == "http.response.start"
            await send(message)

        try:
            await self._app(scope, receive, watch)
        except Exception:
            if scope["type"] != "http" or started:
                raise
            log.exception("%s %s", scope["method"], scope["path"])
            failure = ApiError(500, "INTERNAL_ERROR", "The service has failed; see its log")
            await _answer(failure)(scope, receive, send)


def create_app(service: Service) -> FastAPI:
    """The ASGI application; its lifespan runs the service."""

    @contextlib.asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        async with service.running():
            yield

    app = FastAPI(
        title="mepd-gateway", version=__version__, lifespan=lifespan, redirect_slashes=False
    )
    app.state.service = service
    for router in (
        routes_registry.router,
        routes_tasks.router,
        routes_authorize.router,
        routes_token.router,
        routes_info.router,
        routes_policy.router,
        routes_login.router,
        routes_broker.router,
        routes_operation.router,
        routes_home.router,
    ):
        app.include_router(router)

    settings = service.settings
    app.add_middleware(
        BodyLimit,
        limit=settings.body_max,
        timeout=settings.body_timeout,
        total=settings.bodies_max,
        owner_of=service.identity_of,
    )
    app.add_middleware(Guard)
    app.add_middleware(Meter, metrics=service.metrics)
    app.add_exception_handler(ApiError, _api_error)
    app.add_exception_handler(OAuthError, _oauth_error)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, _http_error)
    app.add_exception_handler(StoreUnavailable, _unavailable)
    app.add_exception_handler(BrokerDown, _unavailable)
    return app
