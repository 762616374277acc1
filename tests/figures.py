"""How often what is done many times is done: a little in every run, in full when asked for.

``scripts/test --figures`` runs the tests marked ``figures`` in full.
"""

from __future__ import annotations

import os

FULL = os.environ.get("MEPD_TEST_FIGURES") == "full"


def figure(short: int, full: int) -> int:
    """``full`` where the figures are wanted, else ``short``."""
    return full if FULL else short
