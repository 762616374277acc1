"""How late the master's loop is while one of its inner borders is flooded."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import need_root
from tests.figures import FULL, figure

BORDERS = ("consumer", "large", "watcher", "stderr", "stages", "reports", "control")


@pytest.mark.figures
@pytest.mark.parametrize("border", BORDERS)
def test_a_flood_at_a_border_leaves_the_loop_its_turns(border: str, tmp_path: Path) -> None:
    """The lag is asserted where the figures are wanted, on a machine that does nothing else."""
    need_root()
    tmp_path.chmod(0o755)
    done = subprocess.run(
        [sys.executable, "-m", "tests.process.flooded", border, str(figure(2000, 50_000)),
         tmp_path], capture_output=True, text=True, timeout=900,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    print(f"{border}: {result}")
    log = (tmp_path / "mepd.log").read_text()
    assert "Traceback" not in log and log.endswith("mepd stopped\n")
    assert result["turns"] > 0
    if FULL:
        assert result["p99"] < 50, result
