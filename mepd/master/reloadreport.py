"""What a reload changes, collected until every part of it is known."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

MEPD_CONF = "mepd.conf"


class ReloadReport:
    """``done`` is called once, when all that was expected has been told."""

    def __init__(self, done: Callable[[dict[str, Any]], None]) -> None:
        self._done = done
        self._expected: set[str] = set()
        self._complete = False
        self._changes: list[dict[str, str]] = []
        self._errors: list[dict[str, str]] = []
        self._waiting = ""

    def settings(self, change: str, waiting: str, error: str) -> None:
        """Of mepd.conf: ``waiting`` is what only counts when mepd starts again."""
        self._waiting = waiting
        self._note(MEPD_CONF, change, error)

    def expect(self, endpoint: str) -> None:
        self._expected.add(endpoint)

    def told(self, endpoint: str, change: str, error: str) -> None:
        """Of an endpoint's folder."""
        self._expected.discard(endpoint)
        self._note(endpoint, change, error)
        self._maybe_done()

    def complete(self) -> None:
        """Nothing more will be expected."""
        self._complete = True
        self._maybe_done()

    def _note(self, of: str, change: str, error: str) -> None:
        if error:
            self._errors.append({"of": of, "error": error})
        elif change:
            self._changes.append({"of": of, "change": change})

    def _maybe_done(self) -> None:
        if self._complete and not self._expected:
            self._expected = {""}  # once
            self._done(
                {"changes": self._changes, "waiting": self._waiting, "errors": self._errors}
            )
