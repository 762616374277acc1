"""What is shown on a terminal that mepd runs on."""

from __future__ import annotations

import io
import sys
from typing import Any

import pytest

from mepd.master.console import Console


class Screen(io.StringIO):
    broken = False

    def isatty(self) -> bool:
        return True

    def write(self, text: str) -> int:
        if self.broken:
            raise OSError(5, "Input/output error")
        return super().write(text)


class FakeLoop:
    def __init__(self) -> None:
        self.ticks: list[Any] = []

    def call_every(self, period: float, callback: Any) -> None:
        self.ticks.append(callback)


def test_a_clock_without_a_cursor_until_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    screen, loop = Screen(), FakeLoop()
    monkeypatch.setattr(sys, "stdout", screen)
    console = Console(loop, True)  # type: ignore[arg-type]
    console.endpoint("4ade2ce0")
    loop.ticks[0]()
    console.close()
    shown = screen.getvalue()
    assert shown.startswith("\033[?25l") and shown.endswith("\033[?25h\n")
    assert "Multi-User Endpoint ID: \033[104m4ade2ce0\033[m" in shown and "\r" in shown


def test_the_other_stream_if_only_that_is_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    screen, loop = Screen(), FakeLoop()
    monkeypatch.setattr(sys, "stdout", io.StringIO())
    monkeypatch.setattr(sys, "stderr", screen)
    console = Console(loop, False)  # type: ignore[arg-type]
    console.endpoint("e")
    console.close()
    assert "e" in screen.getvalue() and "\033[?25" not in screen.getvalue() and not loop.ticks


def test_no_terminal_and_one_that_goes_away(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = io.StringIO()
    monkeypatch.setattr(sys, "stdout", plain)
    monkeypatch.setattr(sys, "stderr", plain)
    console = Console(FakeLoop(), True)  # type: ignore[arg-type]
    console.endpoint("e")
    console.close()
    assert plain.getvalue() == ""
    screen, loop = Screen(), FakeLoop()
    monkeypatch.setattr(sys, "stdout", screen)
    console = Console(loop, True)  # type: ignore[arg-type]
    screen.broken = True
    loop.ticks[0]()
    screen.broken = False
    before = screen.getvalue()
    console.endpoint("e")
    console.close()
    assert screen.getvalue() == before
