"""How mepctl prints: aligned on a terminal, plain when piped, JSON when asked."""

from __future__ import annotations

import functools
import json
import re
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import click

COLOURS = {
    "RUNNING": "green", "online": "green", "STARTING": "yellow", "LAUNCHING": "yellow",
    "BACKOFF": "yellow", "STOPPING": "yellow", "draining": "yellow",
    "offline": "red", "FATAL": "red", "EXITED": "red", "stopped": "red", "STOPPED": "red",
    "ok": "green", "warning": "yellow", "error": "red", "failed": "red", "died": "red",
}  # fmt: skip


_FIGURE = re.compile(r"-|\d+(\.\d+)?[KMG]?|(\d+d)?\d+(:\d\d)+|\d+/\d+")


@dataclass(frozen=True)
class Printer:
    """How one command was told to print."""

    as_json: bool
    header: bool

    def show(self, data: Any, draw: Callable[[], None]) -> None:
        """``data`` as JSON, or what ``draw`` prints of it."""
        if self.as_json:
            print_json(data)
        else:
            draw()

    def table(self, header: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
        table(header, rows, self.header)


def printed(function: Callable[..., Any]) -> Callable[..., Any]:
    """The options that every command has; the command gets them as ``out``, a Printer."""

    @click.option("--json", "as_json", is_flag=True, help="Print JSON.")
    @click.option("--no-header", is_flag=True, help="Print no line of column names.")
    @functools.wraps(function)
    def wrapper(*args: Any, as_json: bool, no_header: bool, **kwargs: Any) -> Any:
        return function(*args, out=Printer(as_json, not no_header), **kwargs)

    return wrapper


def print_json(value: Any) -> None:
    click.echo(json.dumps(value, indent=2 if sys.stdout.isatty() else None))


def table(header: Sequence[str], rows: Sequence[Sequence[Any]], show_header: bool = True) -> None:
    """Columns of text, numbers to the right; bold and coloured on a terminal only."""
    cells = [[cell(value) for value in row] for row in rows]
    columns = range(len(header))
    right = [_are_figures([row[i] for row in cells]) for i in columns]
    if sys.stdout.isatty():
        _on_terminal(header if show_header else None, cells, right)
        return
    shown = [list(header), *cells] if show_header else cells
    widths = [max((len(row[i]) for row in shown), default=0) for i in range(len(header))]
    for row in shown:
        line = "  ".join(
            cell.rjust(width) if to_right else cell.ljust(width)
            for cell, width, to_right in zip(row, widths, right, strict=True)
        )
        click.echo(line.rstrip())


def _are_figures(column: Sequence[str]) -> bool:
    """Whether a column holds figures, at least one, and what is unknown."""
    return any(cell != "-" for cell in column) and all(_FIGURE.fullmatch(c) for c in column)


def _on_terminal(
    header: Sequence[str] | None, cells: Sequence[Sequence[str]], right: Sequence[bool]
) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    drawn = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), show_header=header is not None)
    for number, to_right in enumerate(right):
        drawn.add_column(
            header[number] if header else "",
            justify="right" if to_right else "left",
            no_wrap=number + 1 < len(right),
        )
    for row in cells:
        drawn.add_row(*(Text(cell, style=COLOURS.get(cell, "")) for cell in row))
    Console(highlight=False).print(drawn)


def cell(value: Any) -> str:
    return "-" if value is None or value == "" else printable(str(value))


def printable(text: str) -> str:
    """Text from outside without what steers a terminal."""
    return "".join(c if c.isprintable() else "?" for c in text)


def duration(seconds: float | None) -> str:
    """``3d04:05``, ``4:05:06`` or ``5:06``, as ps(1) and uptime(1) do."""
    if seconds is None:
        return "-"
    minutes, secs = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    if days:
        return f"{days}d{hours:02d}:{minutes:02d}"
    return f"{hours}:{minutes:02d}:{secs:02d}" if hours else f"{minutes}:{secs:02d}"


def moment(seconds: float | None) -> str:
    """Seconds since 1970 as the local time, as the log shows it."""
    if seconds is None:
        return "-"
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seconds))


def size(count: int | None) -> str:
    """Bytes as ``25M``."""
    if count is None:
        return "-"
    for unit in ("", "K", "M", "G"):
        if count < 10 * 1024 or unit == "G":
            return f"{count}{unit}"
        count //= 1024
    raise AssertionError("unreachable")
