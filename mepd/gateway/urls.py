"""URLs that others have written."""

from __future__ import annotations

from urllib.parse import SplitResult, urlsplit

_LOOPBACK = ("127.0.0.1", "::1", "localhost")


def split(url: str) -> SplitResult | None:
    """The parts; None for what is no URL, such as ``https://[`` or one with port 99999."""
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError:
        return None
    return parts if not any(c.isspace() or not c.isprintable() for c in url) else None


def is_secure(parts: SplitResult) -> bool:
    """Whether nobody on the way can read along: https, or http on the loopback."""
    return parts.scheme == "https" or (parts.scheme == "http" and parts.hostname in _LOOPBACK)
