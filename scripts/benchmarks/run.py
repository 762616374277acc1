"""The run of the rows: whatever one of them does, the others run, and nothing is left."""

from __future__ import annotations

import contextlib
import os
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator
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
            self._side(row, found, lambda: row.start(self._broker(), users, worker))
            if row.peer and self._with_peer:
                self._side(row, found, lambda: sides.start_peer(self._broker(), users, PEER))
        for name, unit, goal in row.lines:
            samples = {side: values[name] for side, values in found.items() if name in values}
            yield Line(row.name, name, unit, goal, unit == "1/s", samples)

    def _broker(self) -> Rabbit:
        """It runs, whatever the row before has done to it."""
        if not self._rabbit.running():
            self._rabbit.start()
        return self._rabbit

    def _side(self, row: Row, found: dict[str, Samples], start: Callable[[], Any]) -> None:
        with self._failing(row, "start"), contextlib.closing(start()) as side:
            if row.floor is not None and "floor" not in found:
                with self._failing(row, "floor"):
                    found["floor"] = row.floor(side)
            try:
                found[side.name] = row.measure(side)
            except FAILURES:
                print(side.log()[-3000:], file=sys.stderr)
                self._say(row, side.name)

    @contextlib.contextmanager
    def _failing(self, row: Row, what: str) -> Iterator[None]:
        try:
            yield
        except FAILURES:
            self._say(row, what)

    def _say(self, row: Row, what: str) -> None:
        self.failed.append(row.name)
        print(f"bench: {row.name}: {what} failed:", file=sys.stderr)
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
