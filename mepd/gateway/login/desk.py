"""What logins need while the gateway runs."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from mepd.gateway.database import Database
from mepd.gateway.login.config import OidcSettings
from mepd.gateway.login.passwords import Verifier
from mepd.gateway.login.provider import Provider, ProviderError
from mepd.gateway.oauth import idtoken
from mepd.gateway.oauth.idtoken import Signer
from mepd.gateway.rates import Rates

T = TypeVar("T")
KEYS_KEPT_S = 60.0
CALLBACK_PATH = "/v2/web/login/callback"
BEGUN_PER_SECOND = 1.0
BEGUN_AT_ONCE = 200
"""Logins at the provider that one address may begin: each is a row in the store for an hour."""
ASKING_MAX = 4
WAITING_MAX = 64
"""Questions to the provider at the same time, and how many may wait for an answer."""


class Desk:
    """``provider``: the external one, if there is any; ``begun``: logins at it, by address."""

    def __init__(self, db: Database, public_url: str, oidc: OidcSettings | None) -> None:
        self.verifier = Verifier()
        self.provider = (
            Provider(oidc, public_url + CALLBACK_PATH) if oidc is not None else None
        )
        self.begun = Rates(BEGUN_PER_SECOND, BEGUN_AT_ONCE)
        self._threads = ThreadPoolExecutor(ASKING_MAX, "provider")
        self._waiting = 0
        self._db = db
        self._signer: Signer | None = None
        self._signer_until = 0.0

    async def ask(self, question: Callable[[], T]) -> T:
        """What the provider answers. The threads are its own: one that hangs must not hold up
        passwords, nor the look-up of the broker's name. Raises ProviderError."""
        if self._waiting >= WAITING_MAX:
            raise ProviderError("too many logins wait for the provider")
        self._waiting += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._threads, question)
        finally:
            self._waiting -= 1

    async def signer(self) -> Signer:
        """The keys of id tokens, read anew each minute. Raises StoreUnavailable."""
        now = asyncio.get_running_loop().time()
        if self._signer is None or now >= self._signer_until:
            self._signer = await self._db.awrite(idtoken.load)
            self._signer_until = now + KEYS_KEPT_S
        return self._signer
