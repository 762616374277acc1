"""How mepctl prints when piped."""

from __future__ import annotations

import pytest

from mepd.ctl import output


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(None, "-"), (0, "0:00"), (306.9, "5:06"), (3661, "1:01:01"), (277500, "3d05:05")],
)
def test_duration(seconds: float | None, text: str) -> None:
    assert output.duration(seconds) == text


@pytest.mark.parametrize(
    ("count", "text"),
    [(None, "-"), (0, "0"), (10239, "10239"), (25 * 1024**2, "25M"), (11 * 1024**3, "11G"),
     (9000 * 1024, "9000K"), (20 * 1024**4, "20480G")],
)  # fmt: skip
def test_size(count: int | None, text: str) -> None:
    assert output.size(count) == text


def test_table(capsys: pytest.CaptureFixture[str]) -> None:
    output.table(("NAME", "PID", "NOTE"), [["a", 7, ""], ["longer", 12345, "x y"]])
    assert capsys.readouterr().out == (
        "NAME      PID  NOTE\n"
        "a           7  -\n"
        "longer  12345  x y\n"
    )  # fmt: skip


def test_table_without_header_and_without_rows(capsys: pytest.CaptureFixture[str]) -> None:
    output.table(("NAME", "PID"), [["a", None]], show_header=False)
    output.table(("NAME", "PID"), [], show_header=False)
    output.table(("NAME", "PID"), [])
    assert capsys.readouterr().out == "a  -\nNAME  PID\n"


def test_C4_text_from_outside_stays_in_its_cell(capsys: pytest.CaptureFixture[str]) -> None:
    output.table(("NAME",), [["a\nroot 1 RUNNING"], ["\x1b[31mred\u202e"], ["x) R 1 1"]])
    assert capsys.readouterr().out == "NAME\na?root 1 RUNNING\n?[31mred?\nx) R 1 1\n"
