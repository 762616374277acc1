"""Names that come from outside and go into requests and AMQP frames."""

from __future__ import annotations

import re

_SHORT_STRING_MAX = 255
_UUID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")


def is_short_string(text: str) -> bool:
    """Whether AMQP 0-9-1 can carry it as a name: UTF-8 of at most 255 bytes."""
    try:
        return len(text.encode("utf-8")) <= _SHORT_STRING_MAX
    except UnicodeEncodeError:
        return False


def is_uuid(text: str) -> bool:
    """Whether it is a UUID in the one spelling that the service uses."""
    return _UUID.fullmatch(text) is not None
