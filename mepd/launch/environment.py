"""The environment of a UEP. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mepd.posix.accounts import Account
from mepd.posix.programs import default_path

_FIXED = ("HOME", "USER", "LOGNAME", "SHELL")


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
