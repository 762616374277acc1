"""The broker's questions: may this account log in, may it use this queue or exchange?

RabbitMQ's rabbitmq_auth_backend_http asks by POST and reads "allow" or "deny". Only the
broker's own addresses are answered.
"""

from __future__ import annotations

from typing import Annotated
from urllib.parse import parse_qsl

from fastapi import APIRouter, Depends, Request
from fastapi.responses import PlainTextResponse
from sqlalchemy import Connection

from mepd.gateway import brokeraccounts
from mepd.gateway.callers import ServiceDep
from mepd.gateway.failures import malformed, not_found

router = APIRouter(prefix="/rabbitmq", include_in_schema=False)


async def question(request: Request, service: ServiceDep) -> dict[str, str]:
    """The form that the broker has sent. Raises ApiError for anybody else."""
    sender = request.client.host if request.client is not None else ""
    if sender not in service.settings.broker_auth_from:
        raise not_found("Page", request.url.path)
    try:
        fields = parse_qsl((await request.body()).decode("ascii"), max_num_fields=20)
        form = dict(fields)
    except ValueError:
        raise malformed("the body is no form") from None
    if "\x00" in "".join(form.values()):
        raise malformed("NUL in the form")
    return form


Question = Annotated[dict[str, str], Depends(question)]


def _answer(allowed: bool) -> PlainTextResponse:
    return PlainTextResponse("allow" if allowed else "deny")


@router.post("/user")
async def user(form: Question, service: ServiceDep) -> PlainTextResponse:
    name, password = form.get("username", ""), form.get("password", "")
    return _answer(await service.db.aread(brokeraccounts.check, name, password))


@router.post("/vhost")
async def vhost(form: Question, service: ServiceDep) -> PlainTextResponse:
    account = await service.db.aread(brokeraccounts.find, form.get("username", ""))
    own = form.get("vhost") == service.settings.public_broker.vhost
    return _answer(account is not None and own)


def _resource(tx: Connection, form: dict[str, str]) -> bool:
    account = brokeraccounts.find(tx, form.get("username", ""))
    return account is not None and brokeraccounts.resource_allowed(
        tx,
        account,
        form.get("resource", ""),
        form.get("name", ""),
        form.get("permission", ""),
    )


@router.post("/resource")
async def resource(form: Question, service: ServiceDep) -> PlainTextResponse:
    if form.get("vhost") != service.settings.public_broker.vhost:
        return _answer(False)
    return _answer(await service.db.aread(_resource, form))


@router.post("/topic")
async def topic(form: Question, service: ServiceDep) -> PlainTextResponse:
    """The routing key of each message that is published to a topic exchange."""
    account = await service.db.aread(brokeraccounts.find, form.get("username", ""))
    if account is None or form.get("permission") != "write":
        return _answer(False)
    if form.get("vhost") != service.settings.public_broker.vhost:
        return _answer(False)
    name, key = form.get("name", ""), form.get("routing_key", "")
    return _answer(brokeraccounts.may_use_key(account, name, key))
