"""Checks the files of one folder for mepctl(8), without mepd and without rights.

Reads ``{"endpoint": NAME, "files": {name: text}}`` on stdin and writes ``{"error": TEXT}``.
"""

from __future__ import annotations

import json
import os
import sys

from mepd.errors import WireError
from mepd.posix import accounts, rlimits
from mepd.watcher import bounds
from mepd.watcher.main import validate
from mepd.wire import codec
from mepd.wire.framing import parse_json
from mepd.wire.worker import Validate

_NOBODY = "nobody"


def main() -> int:
    """Answer one question. Returns a sysexits(3) code."""
    question = sys.stdin.buffer.read()
    if os.geteuid() == 0:
        accounts.drop_for_good(accounts.lookup(_NOBODY))
    rlimits.no_core_dumps()
    bounds.limit_memory()
    try:
        message = {"kind": "Validate", "token": "", **parse_json(question)}
        answer = validate(codec.decode(message, (Validate,)))
    except (WireError, TypeError) as e:
        sys.stderr.write(f"mepd.watcher.standalone: {e}\n")
        return os.EX_DATAERR
    print(json.dumps({"error": answer}))
    return os.EX_OK


if __name__ == "__main__":
    sys.exit(main())
