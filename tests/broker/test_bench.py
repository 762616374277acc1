"""scripts/bench measures."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from rabbit import server_script

from tests.conftest import need_root, require

BENCH = Path(__file__).resolve().parents[2] / "scripts/bench"


def bench(*args: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, BENCH, *args], capture_output=True, text=True)


def test_a_row_of_mepd_alone() -> None:
    need_root()
    require(server_script() is not None, "rabbitmq-server")
    done = bench("--row", "round-trip", "--peer-off", "--json")
    assert done.returncode == 0, done.stderr
    [line] = json.loads(done.stdout)
    assert (line["row"], line["unit"]) == ("round-trip", "ms")
    assert set(line["sides"]) == {"mepd", "floor"}
    assert 0 < line["sides"]["floor"]["median"] < line["sides"]["mepd"]["median"] < 30_000


def test_a_row_that_there_is_not() -> None:
    done = bench("--row", "speed", "--peer-off")
    assert done.returncode == 64
    assert done.stderr == "bench: no such row: speed; see --list\n"
