"""Broker credentials: those of the stdin document, until the manager has written newer ones.

The manager keeps a memory file, which it writes when it is asked to start a UEP that runs.
It holds a Fernet token of ``{"amqp_creds": ...}`` (globus-compute-endpoint 4.19,
make_credential_provider), and is read for every new connection.
"""

from __future__ import annotations

import logging
import os
from typing import Any

from mepd.errors import WireError
from mepd.uep.document import Document, check_creds
from mepd.wire.framing import parse_json

log = logging.getLogger(__name__)

SIZE_MAX = 1024 * 1024


class Credentials:
    """``current()`` is what to connect with now."""

    def __init__(self, document: Document) -> None:
        self._creds = document.amqp_creds
        self._fd = document.mem_fd
        self._key = document.enckey
        self._seen = b""
        if self._fd is not None:
            os.set_inheritable(self._fd, False)  # raises OSError if it is no descriptor

    def current(self) -> dict[str, Any]:
        """The newest credentials that make sense; see mepd.uep.document.check_creds."""
        if self._fd is None:
            return self._creds
        try:
            token = os.pread(self._fd, SIZE_MAX, 0)
            if token and token != self._seen:
                self._seen = token
                self._creds = check_creds(self._open(token))
        except (OSError, WireError) as e:
            log.error("refreshed credentials are unusable: %s", e)
        return self._creds

    def renewed(self) -> bool:
        """Whether there are others than at the last look."""
        before = self._creds
        return self.current() is not before

    def _open(self, token: bytes) -> Any:
        """Raises WireError, also for what is being written at this moment."""
        from cryptography.fernet import Fernet, InvalidToken  # seldom needed, and large

        try:
            obj = parse_json(Fernet(self._key).decrypt(token))
        except InvalidToken:
            raise WireError("they are not encrypted with enckey") from None
        except ValueError:
            raise WireError("enckey is no Fernet key") from None
        return obj.get("amqp_creds") if type(obj) is dict else None
