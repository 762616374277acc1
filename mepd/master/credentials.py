"""What proves this site's administrator to the service: the file of ``[service]``."""

from __future__ import annotations

import json
import logging
import os
import stat
from pathlib import Path
from typing import Any

log = logging.getLogger(__name__)

_SIZE_MAX = 1024 * 1024


def read(path: Path | None) -> dict[str, Any]:
    """The credentials as the file has them, {} if there are none; never an error.

    What is wrong is logged without anything of the contents.
    """
    if path is None:
        return {}
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        info = os.fstat(fd)
        if not stat.S_ISREG(info.st_mode):
            os.close(fd)
            log.error("credentials file %s is unusable: no regular file", path)
            return {}
        with os.fdopen(fd, "rb") as file:
            _warn_of_readers(path, info)
            value = json.loads(file.read(_SIZE_MAX))
    except (OSError, ValueError, RecursionError) as e:
        log.error("credentials file %s is unusable: %s", path, type(e).__name__)
        return {}
    if not isinstance(value, dict):
        log.error("credentials file %s is unusable: no JSON object", path)
        return {}
    return value


def _warn_of_readers(path: Path, info: os.stat_result) -> None:
    mode = stat.S_IMODE(info.st_mode)
    if mode & 0o077:
        log.warning(
            "credentials file %s is open to others (mode %04o); make it 0600, and the"
            " secret in it a new one", path, mode,
        )  # fmt: skip
