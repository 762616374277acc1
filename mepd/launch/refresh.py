"""Broker credentials for a UEP that runs, as globus-compute-endpoint 4.19 passes them on.

The memory file holds a Fernet token of ``{"amqp_creds": ...}``; the UEP has had the key in
its stdin document.
"""

from __future__ import annotations

import json
from typing import Any

from mepd.config.launchplan import CredentialFile
from mepd.posix import descriptors

_BLOCK = 4096
"""Bytes to which the document is filled up, so that its size seldom changes."""


def write(file: CredentialFile, amqp_creds: dict[str, Any]) -> None:
    """Raises OSError."""
    from cryptography.fernet import Fernet  # the most costly import of a launch child

    body = json.dumps({"amqp_creds": amqp_creds}, separators=(",", ":")).encode("ascii")
    body += b" " * (-len(body) % _BLOCK)
    descriptors.rewrite(file.fd, Fernet(file.key).encrypt(body))
