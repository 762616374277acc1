"""The environment and the command of a UEP. Pure but for looking up the program."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mepd.posix.accounts import Account

_FIXED = ("HOME", "USER", "LOGNAME", "SHELL")


def default_path() -> str:
    """PATH where user_environment.yaml gives none."""
    return f"/usr/local/bin:/usr/bin:/bin:{Path(sys.executable).parent}"


def is_loaders(name: str) -> bool:
    """Whether a variable tells the dynamic linker or Python what to load."""
    return name.startswith(("LD_", "PYTHON"))


def build(
    account: Account,
    site: Mapping[str, str],
    runtime: Mapping[str, Any],
    ep_name: str,
    pam: Mapping[str, str] | None = None,
) -> dict[str, str]:
    """The whole environment of a UEP; nothing of mepd's own is in it.

    PAM's variables come first, the site's override them; the account's own values are
    not for either to change.
    """
    env = {**(pam or {}), **site}
    for name in _FIXED:
        env.pop(name, None)
    env.setdefault("PATH", default_path())
    env.setdefault("GLOBUS_COMPUTE_ENDPOINT_NAME", ep_name)
    python = runtime.get("python")
    version = python.get("version") if isinstance(python, dict) else None
    for name, value in (
        ("GC_USER_PYTHON_VERSION", version),
        ("GC_USER_SDK_VERSION", runtime.get("globus_compute_sdk_version")),
    ):
        if isinstance(value, str) and value.isprintable() and len(value) < 64:
            env.setdefault(name, value)
    env.update(
        HOME=account.home or "/",
        USER=account.name,
        LOGNAME=account.name,
        SHELL=account.shell or "/bin/sh",
    )
    return env


def find_program(name: str, path: str) -> str:
    """Where a program is, as the caller may execute it: on PATH, else beside this Python.

    The second place lets a site's own PATH leave out mepd's folder. Raises
    FileNotFoundError naming PATH.
    """
    if "/" in name:
        return name
    for folder in [*path.split(":"), str(Path(sys.executable).parent)]:
        candidate = os.path.join(folder or ".", name)
        if os.path.isfile(candidate) and os.access(candidate, os.X_OK):
            return candidate
    raise FileNotFoundError(f"no executable {name!r} for this user on PATH {path!r}")
