"""audit_log_path: what tasks did, in the administrator's log."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest

from tests.conftest import wait_for
from tests.e2e.conftest import make_site, remove
from tests.e2e.site import Site

RECORD = re.compile(
    r"\S+ uid=(\d+) pid=(\d+) uep=(\S+) fid=[0-9a-f-]{36} tid=([0-9a-f-]{36}) bid= (\w+)"
)
SQUARES = (
    "def square(n):\n    return n * n\n"
    "with executor(x='audit') as ex:\n"
    "    print(sum(f.result(90) for f in [ex.submit(square, n) for n in range(20)]))\n"
)


@pytest.fixture(scope="module")
def audited() -> Iterator[Site]:
    made = make_site()
    try:
        with (made.demo.dir / "demo" / "config.yaml").open("a") as f:
            f.write("audit_log_path: audit.log\n")
        made.start()
        yield made
    finally:
        remove(made)


def test_every_step_of_every_task_is_in_the_audit_log(audited: Site) -> None:
    assert audited.research(SQUARES) == f"{sum(n * n for n in range(20))}\n"
    path = audited.demo.dir / "demo" / "audit.log"
    (uep,) = audited.ctl("list")["ueps"]
    wait_for(lambda: path.read_text().count(" EXEC_END\n") == 20, 10, "the last record")
    first, *lines = path.read_text().splitlines()
    assert first.endswith(" Begin CEP session =====")
    found = [RECORD.fullmatch(line) for line in lines]
    assert all(found), lines
    assert {(m[2], m[3]) for m in found if m} == {(str(uep["pid"]), uep["id"])}
    steps: dict[str, list[str]] = {}
    for match in found:
        assert match is not None
        steps.setdefault(match[4], []).append(match[5])
    whole = ["RECEIVED", "EXEC_START", "RUNNING", "EXEC_END"]
    assert len(steps) == 20 and all(s == whole for s in steps.values())
