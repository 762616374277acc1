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


WORKER = "from mepd.uep.engines import sdk; sdk.import_late(); import mepd.uep.engines.execute\n"


def test_a_worker_loads_the_serializer_alone() -> None:
    done = run(WORKER + "import sys; print(*sys.modules)")
    assert done.returncode == 0, done.stderr
    loaded = set(done.stdout.split())
    assert "globus_compute_sdk.serialize" in loaded
    assert not loaded & {"globus_sdk", "pika", "pydantic", "requests", "globus_compute_sdk.sdk"}


def test_a_task_finds_the_whole_sdk() -> None:
    """Threads that touch it at once all get it; what is not there is not there."""
    done = run(
        WORKER + "import globus_compute_sdk as g\n"
        "from concurrent.futures import ThreadPoolExecutor as Pool\n"
        "with Pool(8) as pool:\n"
        "    found = list(pool.map(lambda n: getattr(g, n), ['Executor', 'Client'] * 8))\n"
        "print(sorted({c.__module__ for c in found}), hasattr(g, 'nothing'))\n"
        "from globus_compute_sdk import ShellFunction\n"
        "print(ShellFunction.__module__, g.__version__ != '')\n"
    )
    assert done.stdout == (
        "['globus_compute_sdk.sdk.client', 'globus_compute_sdk.sdk.executor'] False\n"
        "globus_compute_sdk.sdk.shell_function True\n"
    ), done.stderr
