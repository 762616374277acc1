"""Researchers with different Pythons, and workers of the same, as the manual's template has it."""

from __future__ import annotations

import os
import pwd
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import require, wait_for
from tests.e2e.site import Site

OTHER = Path(os.environ.get("MEPD_TEST_OTHER", "/nonexistent"))
TEMPLATE = """\
engine:
  type: GlobusComputeEngine
  max_workers_per_node: 1
  address: 127.0.0.1
  provider:
    type: LocalProvider
    max_blocks: 1
{% if 'VERSION' in user_runtime.python_version %}
    worker_init: |
      export LD_LIBRARY_PATH=PREFIX/python/lib
      . PREFIX/venv/bin/activate
{% endif %}
"""
SCRIPT = """
import os, sys
from globus_compute_sdk import Executor

def where(numbers):
    import getpass, sys
    total = 0
    for n in numbers:  # bytecode that one Python does not read of the other's
        match n:
            case 0:
                continue
            case _:
                total += n
    return sys.version_info[:2], getpass.getuser(), total

config = {"NODES_PER_BLOCK": sys.version_info.minor}  # another UEP: one has one kind of workers
with Executor(os.environ["MEPD_ENDPOINT_ID"], user_endpoint_config=config) as ex:
    print(ex.submit(where, [0, 1, 2]).result(90))
"""


def version(python: Path) -> str:
    code = "import sys; print('%d.%d' % sys.version_info[:2])"
    done = subprocess.run([python, "-c", code], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def test_workers_of_the_researchers_python(site: Site) -> None:
    python = OTHER / "venv/bin/python"
    if not python.exists():
        pytest.skip("this machine has one Python only")
    require(site.stock, "port 5000 for a stock client")
    other, own = version(python), version(Path(sys.executable))
    assert other != own
    changes = site.log().count("Configuration of endpoint demo changed")
    (site.demo.dir / "demo/user_config_template.yaml.j2").write_text(
        TEMPLATE.replace("VERSION", other).replace("PREFIX", str(OTHER))
    )
    wait_for(lambda: site.log().count("Configuration of endpoint demo changed") > changes, 30)
    script = site.demo.dir / "pythons.py"
    script.write_text(SCRIPT)
    name = pwd.getpwnam(site.module.PEOPLE[0].account).pw_name
    for interpreter, wanted in ((python, other), (Path(sys.executable), own)):
        done = subprocess.run(
            [interpreter, "-I", script], env=site.environment(), capture_output=True, text=True,
            timeout=150,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr[-3000:] + site.log()[-2000:]
        major, minor = wanted.split(".")
        assert done.stdout == f"(({major}, {minor}), {name!r}, 3)\n"
