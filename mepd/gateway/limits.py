"""Bounds on request bodies, before anything looks at them (ASGI middleware)."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable

from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mepd.errors import MepdError
from mepd.gateway.failures import ApiError, StoreUnavailable, malformed, too_many
from mepd.gateway.failures import unauthenticated, unavailable

ANONYMOUS_MAX = 64 * 1024
"""Bytes that anybody may send; larger bodies need a token that is good."""
Owner = Callable[[str], Awaitable[str | None]]
"""The identity of a bearer token, None if it is not good. Raises StoreUnavailable."""


class _Refused(MepdError):
    def __init__(self, error: ApiError) -> None:
        super().__init__(str(error))
        self.error = error


class _Held:
    """The bytes that one request holds; ``owner`` is its identity, "" until it is asked."""

    def __init__(self, limit: BodyLimit) -> None:
        self._limit = limit
        self.owner = ""
        self.size = 0

    def add(self, size: int) -> None:
        """Raises _Refused."""
        self._limit.hold(self.owner, size)
        self.size += size

    def belongs_to(self, owner: str) -> None:
        """Raises _Refused."""
        size = self.size
        self.release()
        self.owner = owner
        self.add(size)

    def release(self) -> None:
        self._limit.release(self.owner, self.size)
        self.size = 0


class BodyLimit:
    """Reads each body whole, at most ``limit`` bytes in ``timeout`` seconds.

    Those of all requests that are not answered yet have at most ``total`` bytes, those of
    one identity a quarter, but one body in any case. Who has no good token sends at most
    ``ANONYMOUS_MAX``. Compressed bodies are refused: no client of this API sends them.
    """

    def __init__(
        self, app: ASGIApp, limit: int, timeout: float, total: int, owner_of: Owner
    ) -> None:
        self._app = app
        self._limit = limit
        self._total = total
        self._share = max(total // 4, min(limit, total))
        self._held: Counter[str] = Counter()
        self._timeout = timeout
        self._owner_of = owner_of

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        held = _Held(self)
        try:
            headers = dict(scope["headers"])
            self._check_headers(headers)
            body = await self._read(receive, held, headers.get(b"authorization", b""))
            if body is not None:
                await self._app(scope, _replay(body, receive), send)
        except _Refused as e:
            headers = {**e.error.headers(), "Connection": "close"}
            await JSONResponse(e.error.body(), e.error.status, headers)(scope, receive, send)
        finally:
            held.release()

    def hold(self, owner: str, size: int) -> None:
        """Raises _Refused."""
        share = self._share if owner else self._total
        if self._held[owner] + size > share or self._held.total() + size > self._total:
            raise _Refused(too_many("Too many requests with large bodies"))
        self._held[owner] += size

    def release(self, owner: str, size: int) -> None:
        self._held[owner] -= size
        if not self._held[owner]:
            del self._held[owner]

    async def _vouch(self, held: _Held, authorization: bytes) -> None:
        """Find out whose large body this is. Raises _Refused."""
        scheme, _, token = authorization.decode("latin-1").partition(" ")
        try:
            owner = await self._owner_of(token.strip()) if scheme.lower() == "bearer" else None
        except StoreUnavailable:
            raise _Refused(unavailable(StoreUnavailable.TOLD)) from None
        if owner is None:
            raise _Refused(unauthenticated())
        held.belongs_to(owner)

    def _too_large(self) -> _Refused:
        text = f"The body exceeds {self._limit} bytes"
        return _Refused(ApiError(413, "PAYLOAD_TOO_LARGE", text))

    def _check_headers(self, headers: dict[bytes, bytes]) -> None:
        if headers.get(b"content-encoding", b"identity").lower() != b"identity":
            raise _Refused(malformed("Compressed bodies are not accepted"))
        if b"transfer-encoding" in headers and b"content-length" in headers:
            raise _Refused(malformed("Two lengths: a proxy may have read another request"))
        length = headers.get(b"content-length", b"0")
        if not length.isdigit():
            raise _Refused(malformed("Content-Length is no number"))
        if len(length) > 18 or int(length) > self._limit:
            raise self._too_large()

    async def _read(self, receive: Receive, held: _Held, authorization: bytes) -> bytes | None:
        """None if the client has gone."""
        parts: list[bytes] = []
        try:
            async with asyncio.timeout(self._timeout):
                while True:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        return None
                    parts.append(message.get("body", b""))
                    if held.size + len(parts[-1]) > self._limit:
                        raise self._too_large()
                    held.add(len(parts[-1]))
                    if held.size > ANONYMOUS_MAX and not held.owner:
                        await self._vouch(held, authorization)
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
