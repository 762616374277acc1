"""How mepctl prints: aligned on a terminal, plain when piped, JSON when asked."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from typing import Any

import click


def print_json(value: Any) -> None:
    click.echo(json.dumps(value, indent=2 if sys.stdout.isatty() else None))


def table(header: Sequence[str], rows: Sequence[Sequence[Any]], show_header: bool = True) -> None:
    """Columns of text; numbers are aligned to the right. Nothing but text when piped."""
    cells = [[_cell(value) for value in row] for row in rows]
    shown = [list(header), *cells] if show_header else cells
    if not shown:
        return
    widths = [max(len(row[i]) for row in shown) for i in range(len(header))]
    numeric = [bool(rows) and all(_is_number(row[i]) for row in rows) for i in range(len(header))]
    for number, row in enumerate(shown):
        line = "  ".join(
            cell.rjust(width) if right else cell.ljust(width)
            for cell, width, right in zip(row, widths, numeric, strict=True)
        ).rstrip()
        bold = show_header and number == 0 and sys.stdout.isatty()
        click.echo(click.style(line, bold=True) if bold else line)


def _is_number(value: Any) -> bool:
    return value is None or isinstance(value, (int, float))


def _cell(value: Any) -> str:
    text = "-" if value is None or value == "" else str(value)
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


def size(count: int | None) -> str:
    """Bytes as ``25M``."""
    if count is None:
        return "-"
    for unit in ("", "K", "M", "G"):
        if count < 10 * 1024 or unit == "G":
            return f"{count}{unit}"
        count //= 1024
    raise AssertionError("unreachable")
