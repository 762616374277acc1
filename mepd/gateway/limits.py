"""Bounds on request bodies, before anything looks at them (ASGI middleware)."""

from __future__ import annotations

import asyncio

from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mepd.gateway.failures import ApiError, malformed


class BodyLimit:
    """Reads each body whole, at most ``limit`` bytes in ``timeout`` seconds.

    Compressed bodies are refused: no client of this API sends them.
    """

    def __init__(self, app: ASGIApp, limit: int, timeout: float) -> None:
        self._app = app
        self._limit = limit
        self._timeout = timeout

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        try:
            self._check_headers(dict(scope["headers"]))
            body = await self._read(receive)
        except ApiError as e:
            headers = {**e.headers(), "Connection": "close"}
            await JSONResponse(e.body(), e.status, headers)(scope, receive, send)
            return
        if body is not None:
            await self._app(scope, _replay(body, receive), send)

    def _too_large(self) -> ApiError:
        return ApiError(413, "PAYLOAD_TOO_LARGE", f"The body exceeds {self._limit} bytes")

    def _check_headers(self, headers: dict[bytes, bytes]) -> None:
        if headers.get(b"content-encoding", b"identity").lower() != b"identity":
            raise malformed("Compressed bodies are not accepted")
        length = headers.get(b"content-length", b"0")
        if not length.isdigit():
            raise malformed("Content-Length is no number")
        if len(length) > 18 or int(length) > self._limit:
            raise self._too_large()

    async def _read(self, receive: Receive) -> bytes | None:
        """None if the client has gone."""
        parts: list[bytes] = []
        size = 0
        try:
            async with asyncio.timeout(self._timeout):
                while True:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        return None
                    parts.append(message.get("body", b""))
                    size += len(parts[-1])
                    if size > self._limit:
                        raise self._too_large()
                    if not message.get("more_body", False):
                        return b"".join(parts)
        except TimeoutError:
            raise ApiError(408, "REQUEST_TIMEOUT", "The body took too long") from None


def _replay(body: bytes, receive: Receive) -> Receive:
    """Hands the body on once, then what the server says (the client's leaving)."""
    rest: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def replay() -> Message:
        return rest.pop() if rest else await receive()

    return replay
