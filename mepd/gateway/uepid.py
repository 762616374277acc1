"""The id of a user endpoint: one and the same for (endpoint, user, configuration).

A version 5 UUID over canonical JSON: keys sorted, no blanks, one array of three items, so
that no two triples share a text. ``1``, ``1.0``, ``true`` and ``"1"`` stay distinct.
"""

from __future__ import annotations

import json
import uuid
from typing import Any

NAMESPACE = uuid.UUID("8c1c2b4e-1d0f-5b7a-9f43-6d657064aa01")


def canonical(value: Any) -> str:
    """The one text of a JSON value. Raises ValueError for NaN and infinities."""
    return json.dumps(
        value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False
    )


def uep_id(endpoint_id: str, identity_id: str, config: dict[str, Any]) -> str:
    text = canonical([endpoint_id, identity_id, config])
    return str(uuid.uuid5(NAMESPACE, text))
