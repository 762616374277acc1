"""Which user endpoints a word means."""

from __future__ import annotations

import os
from dataclasses import fields
from typing import Any

import pytest

from mepd.errors import ControlError
from mepd.master import acting, targets
from mepd.master.table import Uep
from mepd.model import StartRequest, UepState
from mepd.posix.process import ProcessId

MEP = "4ade0000-0000-4000-8000-000000000001"


def uep(ident: str, pid: int) -> Uep:
    ident = f"{ident:0<8}-0000-4000-8000-000000000001"
    request = StartRequest(f"uep.{MEP}.{ident}", MEP, ident, "e", "h", (), 0, {})
    who = ProcessId(pid, 0.0)
    return Uep(request.name, "gpu", request, who, who, "c", 0.0, UepState.RUNNING, user="harper")


A, B, C = uep("e909", 4242), uep("e911", 77), uep("4242", 99)
ALL = [A, B, C]


@pytest.mark.parametrize(
    ("words", "chosen"),
    [
        (["e90"], [A]),
        (["E909"], [A]),
        (["77"], [B]),
        ([A.name], [A]),
        ([B.request.uep_id, "99"], [B, C]),
        (["99", "99"], [C]),
        ([f"uep.{MEP}.e91"], [B]),
    ],
)
def test_chosen(words: list[str], chosen: list[Uep]) -> None:
    assert targets.choose(ALL, words, ambiguous=False) == chosen


@pytest.mark.parametrize(
    ("word", "fits"),
    [("e9", [A, B]), ("uep.", [A, B, C]), ("4242", [A, C])],  # a pid, and the beginning of an id
)
def test_ambiguous(word: str, fits: list[Uep]) -> None:
    with pytest.raises(ControlError) as caught:
        targets.choose(ALL, [word], ambiguous=False)
    assert caught.value.exit_code == os.EX_USAGE
    for u in fits:
        assert targets.describe(u) in str(caught.value)
    assert targets.choose(ALL, [word], ambiguous=True) == fits
    with pytest.raises(ControlError, match="write more of the id"):
        targets.one(ALL, word)


def test_a_pid_is_meant_whole() -> None:
    assert targets.choose(ALL, ["424"], ambiguous=False) == [C]  # the beginning of its id
    with pytest.raises(ControlError):
        targets.choose(ALL, ["7"], ambiguous=False)


@pytest.mark.parametrize("word", ["zz", "e", "uep.x", "9" * 500, "%s", "e909 "])
def test_nothing_fits(word: str) -> None:
    with pytest.raises(ControlError) as caught:
        targets.choose(ALL, [word], ambiguous=False)
    assert caught.value.exit_code == os.EX_UNAVAILABLE and len(str(caught.value)) < 200


def test_many_candidates_are_counted() -> None:
    many = [uep(f"ab{n:02}", 1000 + n) for n in range(30)]
    with pytest.raises(ControlError, match="fits 30 user endpoints: .* and 20 more"):
        targets.choose(many, ["ab"], ambiguous=False)


def test_c2_a_thousand_targets_are_not_compared_with_each_user_endpoint() -> None:
    looks = 0

    class Counted(Uep):
        def __getattribute__(self, name: str) -> Any:
            nonlocal looks
            looks += 1
            return super().__getattribute__(name)

    plain = [uep(f"ab{n:03}", 1000 + n) for n in range(200)]
    many = [Counted(**{f.name: getattr(u, f.name) for f in fields(u)}) for u in plain]
    words = [f"uep.{MEP}.ab"[: 2 + n % 40] for n in range(1000)]
    words = [w.upper() if n % 2 else w for n, w in enumerate(words)]
    looks = 0
    assert targets.choose(many, words, ambiguous=True) == many
    assert looks < len(many) * len(words) / 4


@pytest.mark.parametrize(
    ("text", "name"), [("TERM", "TERM"), ("sigkill", "KILL"), ("9", "KILL"), ("usr1", "USR1")]
)
def test_signals(text: str, name: str) -> None:
    assert acting.signal_name(text) == name


@pytest.mark.parametrize("text", ["SEGV", "0", "999", "-9", "", "SIG", "TERM\n", "٩"])
def test_signals_that_are_none(text: str) -> None:
    with pytest.raises(ControlError, match="known are TERM, INT"):
        acting.signal_name(text)
