from __future__ import annotations

import pytest

from mepd.uep.title import activity, short_name, title

NAME = "uep.4ade1a2b-0000-4000-8000-000000000001.e9091a2b-0000-4000-8000-000000000002"


def test_titles_of_the_design() -> None:
    assert title("harper", NAME, activity(2, 2, 14, 0, 10)) == (
        "mepd-uep harper 4ade../e909.. 2 running, 14 done"
    )
    assert title("jessie", NAME, activity(0, 0, 14, 3, 10)) == (
        "mepd-uep jessie 4ade../e909.. idle 3/10"
    )


def test_other_names_stay_whole() -> None:
    assert short_name("debug") == "debug"


@pytest.mark.parametrize(
    ("args", "text"),
    [
        ((0, 5, 0, 0, 10), "0 running, 0 done"),
        ((0, 0, 3, 99, 10), "idle 10/10"),
        ((0, 0, 3, 4, 0), "idle, 3 done"),
    ],
)
def test_activity(args: tuple[int, int, int, int, int], text: str) -> None:
    assert activity(*args) == text
