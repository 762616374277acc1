"""Where programs are, as the caller may execute them."""

from __future__ import annotations

import os
import sys
from pathlib import Path


def default_path() -> str:
    """PATH of a user endpoint where user_environment.yaml gives none."""
    return f"/usr/local/bin:/usr/bin:/bin:{Path(sys.executable).parent}"


def find_program(name: str, path: str) -> str:
    """Where a program is, as the caller may execute it: on PATH, else beside this Python.

    The second place lets a site's own PATH leave out mepd's folder. What PATH has that is no
    absolute folder is passed over: it would be found below the user's home. Raises
    FileNotFoundError naming PATH.
    """
    if "/" in name:
        return name
    for folder in [*path.split(":"), str(Path(sys.executable).parent)]:
        if not folder.startswith("/"):
            continue
        candidate = os.path.join(folder, name)
        if os.path.isfile(candidate) and os.access(candidate, os.X_OK):
            return candidate
    raise FileNotFoundError(f"no executable {name!r} for this user on PATH {path!r}")
