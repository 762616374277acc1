"""The site's lowest uid of a person, from login.defs(5)."""

from __future__ import annotations

from pathlib import Path

LOGIN_DEFS = Path("/etc/login.defs")
FALLBACK = 1000


def uid_min(path: Path = LOGIN_DEFS) -> int:
    """``UID_MIN``; 1000 where the file or the key is missing."""
    try:
        lines = path.read_text("utf-8", "replace").splitlines()
    except OSError:
        return FALLBACK
    for line in lines:
        words = line.split()
        if len(words) >= 2 and words[0] == "UID_MIN" and words[1].isascii() and words[1].isdigit():
            return int(words[1])
    return FALLBACK
