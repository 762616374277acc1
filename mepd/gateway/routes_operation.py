"""For those who run the gateway: does it live, does it work, and how much."""

from __future__ import annotations

import asyncio

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response
from prometheus_client import CONTENT_TYPE_LATEST
from pydantic import BaseModel
from sqlalchemy import Connection, text

from mepd.gateway.answers import ERRORS
from mepd.gateway.callers import ServiceDep
from mepd.gateway.failures import StoreUnavailable, not_found

READY_TIMEOUT_S = 5.0

router = APIRouter(tags=["operation"])


class Health(BaseModel):
    """``broker``: whether it is connected."""

    status: str
    broker: bool


class Readiness(BaseModel):
    """``status``: "ready", or "not ready" if one of the two is away."""

    status: str
    store: bool
    broker: bool


@router.get("/healthz", response_model=Health)
async def healthz(service: ServiceDep) -> Health:
    """The process lives; whether it has its broker."""
    return Health(status="ok", broker=service.link.connected)


def _ping(tx: Connection) -> None:
    tx.execute(text("SELECT 1"))


@router.get("/readyz", response_model=Readiness, responses={503: {"model": Readiness}})
async def readyz(service: ServiceDep) -> Response:
    """Whether requests can be served: store and broker are there."""
    try:
        async with asyncio.timeout(READY_TIMEOUT_S):
            await service.db.aread(_ping)
        store = True
    except (StoreUnavailable, TimeoutError):
        store = False
    broker = service.link.connected
    ready = store and broker
    answer = Readiness(status="ready" if ready else "not ready", store=store, broker=broker)
    return JSONResponse(answer.model_dump(), 200 if ready else 503)


@router.get(
    "/metrics",
    response_class=Response,
    responses={200: {"content": {"text/plain": {"schema": {"type": "string"}}}}, 404: ERRORS[404]},
)
async def metrics(request: Request, service: ServiceDep) -> Response:
    """Numbers for Prometheus, to the addresses of ``metrics_from`` only."""
    sender = request.client.host if request.client is not None else ""
    if sender not in service.settings.metrics_from:
        raise not_found("Page", request.url.path)
    return Response(service.metrics.page(), media_type=CONTENT_TYPE_LATEST)
