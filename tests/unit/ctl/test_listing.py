"""mepctl list: its order, its filters, and its picture in the manuals."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import pytest

from mepd.ctl import listing
from mepd.ctl.main import main
from mepd.ctl.output import Printer
from mepd.errors import ControlError

TOP = Path(__file__).resolve().parents[3]
HARPER = {
    "user": "harper", "id": "e9090000-0000-4000-8000-000000000001", "pid": 4242,
    "state": "RUNNING", "uptime": 3661.0, "running": 2, "done": 14, "idle": None, "soft": 10,
    "cpu": 12.5, "rss": 25 << 20, "failure": None, "name": "b", "endpoint": "gpu",
}  # fmt: skip
JESSIE = {
    **HARPER, "user": "jessie", "id": "77b10000-0000-4000-8000-000000000002", "pid": 4343,
    "uptime": 306.0, "running": 0, "done": 3, "idle": 3, "cpu": 0.0, "rss": 24 << 20,
    "name": "a", "failure": {"time": 1000.0, "stage": "TEMPLATE", "code": 77, "reason": "x"},
}  # fmt: skip


@pytest.mark.parametrize("document", ["README.md", "man/mepctl.8"])
def test_the_picture_is_what_is_printed(
    document: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(time, "time", lambda: 1581.0)
    listing.draw({"ueps": [HARPER, JESSIE]}, Printer(False, True))
    lines = capsys.readouterr().out.splitlines()
    shown = [line.strip() for line in (TOP / document).read_text().splitlines()]
    at = shown.index(lines[0])
    assert shown[at : at + 3] == lines


@pytest.mark.parametrize(
    ("key", "users"),
    [
        (None, ["harper", "jessie"]),
        ("user", ["harper", "jessie"]),
        ("-user", ["jessie", "harper"]),
        ("name", ["jessie", "harper"]),
        ("uptime", ["jessie", "harper"]),
        ("-RSS", ["harper", "jessie"]),
        ("idle", ["jessie", "harper"]),  # what is unknown comes last
        ("-idle", ["jessie", "harper"]),
        ("failure", ["jessie", "harper"]),
    ],
)
def test_order(key: str | None, users: list[str]) -> None:
    rows: list[dict[str, Any]] = [HARPER, JESSIE]
    assert [u["user"] for u in listing.sort(rows, key)] == users


def test_words_that_are_none() -> None:
    with pytest.raises(ControlError, match="cannot sort by 'colour'; known are user"):
        listing.sort([], "colour")
    with pytest.raises(ControlError, match="no state 'GONE'; known are LAUNCHING"):
        listing.states("running,gone")
    assert listing.states(" running, Stopping,") == ["RUNNING", "STOPPING"]


def test_no_number_is_no_interval(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list", "--watch", "nan"]) == os.EX_USAGE
    assert "'nan' is not" in capsys.readouterr().err
