"""The run of the rows: whatever one of them does, the others run, and nothing is left."""

from __future__ import annotations

import contextlib
import os
import sys
import traceback
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
from rabbit import Rabbit

from benchmarks import sides
from benchmarks.figures import Line, Samples
from benchmarks.rows import Row
from tests.conftest import User, make_user, remove_user

PEER = Path(os.environ.get("MEPD_TEST_PEER", "/opt/mepd-test-peer"))
FAILURES = (Exception, pytest.fail.Exception)
"""What a row may end in. pytest's is no Exception."""
EXPECTED = (AssertionError, OSError, RuntimeError, pytest.fail.Exception)
"""What speaks for itself: no traceback."""


class Bench:
    """``failed`` says of which rows something is missing."""

    def __init__(self, with_peer: bool) -> None:
        self.failed: list[str] = []
        self._with_peer = with_peer
        self._rabbit = Rabbit()

    def run(self, rows: Iterable[Row]) -> Iterator[Line]:
        """The lines of all rows, as they are measured."""
        try:
            for row in rows:
                print(f"bench: {row.name}", file=sys.stderr)
                yield from self._row(row)
        finally:
            self._rabbit.remove()

    def _row(self, row: Row) -> Iterator[Line]:
        found: dict[str, Samples] = {}
        with self._failing(row, "accounts"), _accounts(row.users) as (users, worker):
            with self._failing(row, "mepd"):
                self._side(row, found, row.start(self._broker(), users, worker))
            if row.peer and self._with_peer:
                with self._failing(row, "globus-compute-endpoint"):
                    self._side(row, found, sides.start_peer(self._broker(), users, PEER))
        for name, unit, goal in row.lines:
            samples = {side: values[name] for side, values in found.items() if name in values}
            yield Line(row.name, name, unit, goal, unit == "1/s", samples)

    def _broker(self) -> Rabbit:
        """It runs, whatever the row before has done to it."""
        if not self._rabbit.running():
            self._rabbit.start()
        return self._rabbit

    def _side(self, row: Row, found: dict[str, Samples], started: Any) -> None:
        with contextlib.closing(started) as side:
            if row.floor is not None and "floor" not in found:
                with self._failing(row, "floor"):
                    found["floor"] = row.floor(side)
            try:
                found[side.name] = row.measure(side)
            except BaseException:
                print(side.log()[-3000:], file=sys.stderr)
                raise

    @contextlib.contextmanager
    def _failing(self, row: Row, what: str) -> Iterator[None]:
        try:
            yield
        except FAILURES as e:
            self.failed.append(row.name)
            print(f"bench: {row.name}: {what}: {type(e).__name__}: {e}", file=sys.stderr)
            if not (isinstance(e, EXPECTED) and str(e)):
                traceback.print_exc()


@contextlib.contextmanager
def _accounts(count: int) -> Iterator[tuple[list[User], User]]:
    """Accounts for a row, and one for mepd's workers."""
    made: list[User] = []
    try:
        for _ in range(count + 1):
            made.append(make_user())
        yield made[:count], made[count]
    finally:
        for user in made:
            remove_user(user)
