"""Secrets: made with 256 random bits, shown once, stored as SHA-256.

A random secret of that size needs no slow hash; see RFC 4086 and OWASP on API keys.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets


def new_secret() -> str:
    """256 random bits, in characters that need no quoting in URLs and shells."""
    return secrets.token_urlsafe(32).replace("-", "A").replace("_", "B")


def digest(secret: str) -> str:
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).hexdigest()


def matches(secret: str, stored: str) -> bool:
    """Compare in constant time."""
    return hmac.compare_digest(digest(secret), stored)
