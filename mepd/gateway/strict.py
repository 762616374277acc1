"""Request bodies, read strictly: RFC 8259 JSON with bounds, text that can be stored."""

from __future__ import annotations

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
_UNSTORABLE = re.compile("[\x00\ud800-\udfff]")


def check_text(value: Any) -> None:
    """Raise WireError for NUL and lone surrogates, which no database or answer can hold."""
    stack = [value]
    while stack:
        node = stack.pop()
        if isinstance(node, str):
            if _UNSTORABLE.search(node):
                raise WireError("text with NUL or a lone surrogate")
        elif isinstance(node, dict):
            stack.extend(node.keys())
            stack.extend(node.values())
        elif isinstance(node, list):
            stack.extend(node)


def parse_body(body: bytes) -> Any:
    """Raises ApiError 400."""
    try:
        value = parse_json(body)
        jsonlimits.check(value, "body", DEPTH, VALUES_MAX)
        check_text(value)
    except WireError as e:
        raise malformed(f"The request body is not acceptable: {e}") from None
    return value


class StrictRequest(Request):
    async def json(self) -> Any:
        return parse_body(await self.body())


class StrictRoute(APIRoute):
    """A route whose JSON body goes through ``parse_body``."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handler = super().get_route_handler()

        async def strict(request: Request) -> Response:
            request = StrictRequest(request.scope, request.receive)
            kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
            if await request.body() and kind not in ("", "application/json"):
                raise ApiError(415, "UNSUPPORTED_MEDIA_TYPE", "The body must be application/json")
            return await handler(request)

        return strict
