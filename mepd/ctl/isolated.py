"""Questions to a process of their own: what looks at the site's files is not mepctl's code."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

from mepd.errors import ControlError

PATIENCE_S = 60.0


def ask(module: str, question: dict[str, Any]) -> subprocess.CompletedProcess[bytes]:
    """What ``module`` says to a JSON object on its standard input. Raises ControlError."""
    try:
        return subprocess.run(
            [sys.executable, "-I", "-m", module], input=json.dumps(question).encode(),
            capture_output=True, timeout=PATIENCE_S, cwd="/",
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        raise ControlError(f"{module}: no answer in {PATIENCE_S:g} s", os.EX_TEMPFAIL) from None
