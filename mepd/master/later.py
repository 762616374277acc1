"""Answers that do not come in the turn of their request."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from mepd.errors import ControlError


class Later:
    """One answer, given once, in this or a later turn of the loop.

    Who returns it must see to it that it comes, be it as a refusal.
    """

    def __init__(self) -> None:
        self._outcome: Any = None
        self.over = False
        self._then: Callable[[Any], None] | None = None

    def resolve(self, data: Any) -> None:
        self._settle(data)

    def refuse(self, error: ControlError) -> None:
        self._settle(error)

    def _settle(self, outcome: Any) -> None:
        if self.over:
            return
        self.over, self._outcome = True, outcome
        if self._then is not None:
            self._then(outcome)

    def then(self, callback: Callable[[Any], None]) -> None:
        """Call back with the data, or with the ControlError."""
        self._then = callback
        if self.over:
            callback(self._outcome)


class Stream:
    """Answers without end: ``first`` at once, what ``begin`` sends as long as the client stays.

    ``begin`` gets the function that sends one more answer and returns what ends it.
    """

    def __init__(
        self, first: list[Any], begin: Callable[[Callable[[Any], None]], Callable[[], None]]
    ) -> None:
        self.first = first
        self.begin = begin
