"""Who mepctl's caller is: to mepd, and to the web service."""

from __future__ import annotations

import json
import pwd
from typing import Any

from mepd.ctl.main import DEFAULT_CONFIG, Target
from mepd.errors import MepdError


def account_name(uid: int) -> str:
    """The name of a uid, or the number where it has none."""
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def of(answer: dict[str, Any], target: Target) -> dict[str, Any]:
    """mepd's answer with the name of the account, and the service as far as it is readable."""
    url, client = _service(target)
    return {
        "user": account_name(answer["uid"]),
        "uid": answer["uid"],
        "administrator": answer["administrator"],
        "ueps": answer["ueps"],
        "service": url,
        "client": client,
    }


def _service(target: Target) -> tuple[str | None, str | None]:
    """The web service's URL and the client that this site is to it; never its secret."""
    if target.config is None and target.socket is not None:
        return None, None  # whose configuration is not known
    from mepd.config import ini

    try:
        section = ini.load(target.config or DEFAULT_CONFIG).service
    except (MepdError, OSError):
        return None, None
    if section.credentials is None:
        return section.url, None
    try:
        value = json.loads(section.credentials.read_text())
    except (OSError, ValueError):
        return section.url, None
    if not isinstance(value, dict):
        return section.url, None
    client = value.get("client_id")
    return section.url, client if isinstance(client, str) else "a token" if value else None
