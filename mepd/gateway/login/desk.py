"""What logins need while the gateway runs."""

from __future__ import annotations

import asyncio

from mepd.gateway.database import Database
from mepd.gateway.login.config import OidcSettings
from mepd.gateway.login.passwords import Verifier
from mepd.gateway.login.provider import Provider
from mepd.gateway.oauth import idtoken
from mepd.gateway.oauth.idtoken import Signer

KEYS_KEPT_S = 60.0
CALLBACK_PATH = "/v2/web/login/callback"


class Desk:
    """``provider``: the external one, if there is any."""

    def __init__(self, db: Database, public_url: str, oidc: OidcSettings | None) -> None:
        self.verifier = Verifier()
        self.provider = (
            Provider(oidc, public_url + CALLBACK_PATH) if oidc is not None else None
        )
        self._db = db
        self._signer: Signer | None = None
        self._signer_until = 0.0

    async def signer(self) -> Signer:
        """The keys of id tokens, read anew each minute. Raises StoreUnavailable."""
        now = asyncio.get_running_loop().time()
        if self._signer is None or now >= self._signer_until:
            self._signer = await self._db.awrite(idtoken.load)
            self._signer_until = now + KEYS_KEPT_S
        return self._signer
