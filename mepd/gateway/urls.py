"""URLs that others have written."""

from __future__ import annotations

from urllib.parse import SplitResult, urlsplit


def split(url: str) -> SplitResult | None:
    """The parts; None for what is no URL, such as ``https://[`` or one with port 99999."""
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError:
        return None
    return parts if not any(c.isspace() or not c.isprintable() for c in url) else None
