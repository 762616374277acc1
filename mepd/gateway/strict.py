"""Request bodies, read strictly: RFC 8259 JSON with bounds, text that can be stored."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import Request, Response
from fastapi.routing import APIRoute

from mepd.errors import WireError
from mepd.gateway.failures import ApiError, malformed
from mepd.wire import jsonlimits
from mepd.wire.framing import parse_json

DEPTH = 32
VALUES_MAX = 65_536
TOKENS_MAX = 200_000
"""Strings, commas and opening brackets of one body: a list of three bytes takes 60 or more
once it is parsed."""
_UNSTORABLE = re.compile("[\x00\ud800-\udfff]")
_TOKEN = re.compile(rb'"(?:[^"\\]++|\\.)*+"?|[,\[{]', re.DOTALL)


def check_text(value: Any, what: str = "body") -> None:
    """Raise WireError, naming the path, for NUL and lone surrogates, which no database or
    answer can hold."""
    stack: list[tuple[Any, jsonlimits.Place]] = [(value, (None, what))]
    while stack:
        node, place = stack.pop()
        if isinstance(node, str):
            if _UNSTORABLE.search(node):
                raise WireError(f"{jsonlimits.path(place)}: text with NUL or a lone surrogate")
        elif isinstance(node, dict):
            stack.extend((key, place) for key in node)
            stack.extend((v, (place, k)) for k, v in node.items())
        elif isinstance(node, list):
            stack.extend((v, (place, i)) for i, v in enumerate(node))


def storable(text: str) -> str:
    """``text`` with a mark for what no database or answer can hold."""
    return _UNSTORABLE.sub("\N{REPLACEMENT CHARACTER}", text)


def check_tokens(body: bytes) -> None:
    """Raise WireError for JSON of more than ``TOKENS_MAX`` values or so: unparsed."""
    if body.count(b",") + body.count(b"[") + body.count(b"{") <= TOKENS_MAX // 2:
        return
    if next(itertools.islice(_TOKEN.finditer(body), TOKENS_MAX, None), None) is not None:
        raise WireError("too many values")


def parse_body(body: bytes) -> Any:
    """Raises ApiError 400."""
    try:
        check_tokens(body)
        value = parse_json(body)
        jsonlimits.check(value, "body", DEPTH, VALUES_MAX)
        check_text(value)
    except WireError as e:
        raise malformed(storable(f"The request body is not acceptable: {e}")) from None
    return value


class StrictRequest(Request):
    """Its JSON is parsed once."""

    async def json(self) -> Any:
        """Raises ApiError 400."""
        if not hasattr(self, "_strict_json"):
            self._strict_json = parse_body(await self.body())
        return self._strict_json


class StrictRoute(APIRoute):
    """A route whose JSON body goes through ``parse_body``."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handler = super().get_route_handler()

        async def strict(request: Request) -> Response:
            request = StrictRequest(request.scope, request.receive)
            kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
            if await request.body() and kind not in ("", "application/json"):
                raise ApiError(415, "UNSUPPORTED_MEDIA_TYPE", "The body must be application/json")
            if self.body_field is not None and await request.body():
                await request.json()  # FastAPI would not tell what is wrong, and where
            return await handler(request)

        return strict
