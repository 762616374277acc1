"""tests/FAULTS.md names tests that there are, and all that bear the name of a bar."""

from __future__ import annotations

import re
from pathlib import Path

TESTS = Path(__file__).parent.parent
LIST = (TESTS / "FAULTS.md").read_text()
DEFINED = {
    name
    for path in TESTS.rglob("test_*.py")
    for name in re.findall(r"def (test_\w+)", path.read_text())
}
BAR = re.compile(r"test_((?:[DPIEFCGARLOT]\d{1,2}_)+)", re.IGNORECASE)


def test_each_test_that_is_named_is_there() -> None:
    named = set(re.findall(r"`(test_\w+)`", LIST))
    assert len(named) > 200 and not named - DEFINED


def test_each_bars_tests_are_named() -> None:
    rows = dict(re.findall(r"^\| ([A-Z]\d+) \|.*\| (.*) \|$", LIST, re.MULTILINE))
    assert len(rows) == 90
    for name in DEFINED:
        found = BAR.match(name)
        for bar in found[1].upper().split("_")[:-1] if found else ():
            assert f"`{name}`" in rows[bar], (bar, name)
