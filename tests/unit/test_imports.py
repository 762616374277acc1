"""The import rules of setup.cfg hold, and what a process loads stays what it should be."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

TOP = Path(__file__).resolve().parents[2]
LINT = "import sys, importlinter.cli as c; sys.exit(c.lint_imports(no_cache=True))"


def run(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], cwd=TOP, capture_output=True, text=True)


def test_import_rules() -> None:
    done = run(LINT)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "8 kept, 0 broken" in done.stdout


HEAVY = {
    "asyncio", "click", "cryptography", "dill", "fastapi", "globus_compute_sdk",
    "globus_identity_mapping", "jinja2", "jsonschema", "pika", "requests", "rich",
    "sqlalchemy", "watchfiles",
}  # fmt: skip


@pytest.mark.parametrize(
    ("module", "allowed"),
    [
        ("mepd.master.main", set()),
        ("mepd.uep.main", {"pika"}),
        ("mepd.ctl.main", {"click"}),
        ("mepd.ctl.listing", {"click"}),
        ("mepd.ctl.kill", {"click"}),
    ],
)
def test_what_importing_loads(module: str, allowed: set[str]) -> None:
    """The master is what every fork copies; mepd-uep and mepctl start often."""
    done = run(f"import sys, {module}; print(*sys.modules)")
    loaded = {name.partition(".")[0] for name in done.stdout.split()}
    assert done.returncode == 0, done.stderr
    assert loaded & HEAVY <= allowed
