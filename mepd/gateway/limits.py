"""Bounds on request bodies, before anything looks at them (ASGI middleware)."""

from __future__ import annotations

import asyncio

from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mepd.errors import MepdError
from mepd.gateway.failures import ApiError, malformed, too_many


class _Refused(MepdError):
    def __init__(self, error: ApiError) -> None:
        super().__init__(str(error))
        self.error = error


class _Held:
    """The bytes that one request holds."""

    def __init__(self, limit: BodyLimit) -> None:
        self._limit = limit
        self._size = 0

    def add(self, size: int) -> None:
        """Raises _Refused."""
        self._limit.hold(size)
        self._size += size

    def release(self) -> None:
        self._limit.release(self._size)
        self._size = 0


class BodyLimit:
    """Reads each body whole, at most ``limit`` bytes in ``timeout`` seconds.

    Those of all requests that are not answered yet have at most ``total`` bytes.
    Compressed bodies are refused: no client of this API sends them.
    """

    def __init__(self, app: ASGIApp, limit: int, timeout: float, total: int) -> None:
        self._app = app
        self._limit = limit
        self._total = total
        self._held = 0
        self._timeout = timeout

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        held = _Held(self)
        try:
            self._check_headers(dict(scope["headers"]))
            body = await self._read(receive, held)
            if body is not None:
                await self._app(scope, _replay(body, receive), send)
        except _Refused as e:
            headers = {**e.error.headers(), "Connection": "close"}
            await JSONResponse(e.error.body(), e.error.status, headers)(scope, receive, send)
        finally:
            held.release()

    def hold(self, size: int) -> None:
        """Raises _Refused."""
        if self._held + size > self._total:
            raise _Refused(too_many("Too many requests with large bodies"))
        self._held += size

    def release(self, size: int) -> None:
        self._held -= size

    def _too_large(self) -> _Refused:
        text = f"The body exceeds {self._limit} bytes"
        return _Refused(ApiError(413, "PAYLOAD_TOO_LARGE", text))

    def _check_headers(self, headers: dict[bytes, bytes]) -> None:
        if headers.get(b"content-encoding", b"identity").lower() != b"identity":
            raise _Refused(malformed("Compressed bodies are not accepted"))
        length = headers.get(b"content-length", b"0")
        if not length.isdigit():
            raise _Refused(malformed("Content-Length is no number"))
        if len(length) > 18 or int(length) > self._limit:
            raise self._too_large()

    async def _read(self, receive: Receive, held: _Held) -> bytes | None:
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
                    held.add(len(parts[-1]))
                    if not message.get("more_body", False):
                        return b"".join(parts)
        except TimeoutError:
            late = ApiError(408, "REQUEST_TIMEOUT", "The body took too long")
            raise _Refused(late) from None


def _replay(body: bytes, receive: Receive) -> Receive:
    """Hands the body on once, then what the server says (the client's leaving)."""
    rest: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def replay() -> Message:
        return rest.pop() if rest else await receive()

    return replay
