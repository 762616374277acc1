"""What the looking verbs tell to whom."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from mepd.config.settings import MepdSection, Settings
from mepd.errors import ControlError
from mepd.master.asking import Caller
from mepd.master.history import History, Kind
from mepd.master.looking import Looking
from mepd.posix.peer import Peer

ROOT = Caller(Peer(1, 0, 0), True)
HARPER = Caller(Peer(2, 1000, 1000), False)


def looking(**section: Any) -> tuple[Looking, History]:
    settings = replace(Settings(Path("/c")), mepd=MepdSection(**section))
    history = History()
    commander: Any = SimpleNamespace(
        table=[], history=history, now=lambda: 0.0, settings=lambda: settings
    )
    return Looking(commander), history


def ask(look: Looking, caller: Caller, verb: str, **args: Any) -> Any:
    return look.table()[verb].handler(caller, args)


def test_mepds_own_log_may_be_no_file() -> None:
    assert ask(looking(logfile=Path("/l"))[0], ROOT, "log")["path"] == "/l"
    with pytest.raises(ControlError, match="mepd logs to syslog, not to a file") as caught:
        ask(looking(log_to=("syslog",))[0], ROOT, "log")
    assert caught.value.exit_code == os.EX_UNAVAILABLE


def test_c1_reasons_are_those_that_the_user_was_told() -> None:
    look, history = looking()
    about = {"name": "n", "id": "ab12", "uid": 1000, "user": "harper", "stage": "HOST_AUTH"}
    history.note(Kind.FAILED, "gpu", reason="PAM said canary", public="see your admin", **about)
    history.note(Kind.FAILED, "gpu", reason="not mapped: canary", public="no")
    history.note(Kind.FAILED, "gpu", reason="canary", public="canary", uid=1001)
    for verb in ("failures", "events"):
        assert len(ask(look, ROOT, verb)[verb]) == 3
        (mine,) = ask(look, HARPER, verb)[verb]
        assert mine["reason"] == "see your admin" and mine["stage"] == "HOST_AUTH"


def test_c2_a_long_word_is_not_worked_on_for_each_event() -> None:
    """It may be as long as a request, and anybody may ask."""
    lowered = 0

    class Word(str):
        def lower(self) -> str:
            nonlocal lowered
            lowered += 1
            return str.lower(self)

    look, history = looking()
    for n in range(1000):
        history.note(Kind.STARTED, "gpu", name=f"uep.a.{n}", id=str(n), uid=n, user="harper")
    for caller in (HARPER, ROOT):
        with pytest.raises(ControlError, match="no user endpoint matches"):
            ask(look, caller, "log", target=Word("é" * 60_000))
    assert lowered < 10


def test_c1_a_log_of_one_that_has_ended_is_its_users() -> None:
    look, history = looking()
    history.note(Kind.STOPPED, "gpu", name="uep.a.ab12", id="ab12", uid=1000, user="harper")
    history.note(Kind.STOPPED, "gpu", name="uep.a.ab34", id="ab34", uid=1001, user="jessie")
    assert ask(look, HARPER, "log", target="ab")["name"] == "uep.a.ab12"
    assert ask(look, ROOT, "log", target="ab34")["user"] == "jessie"
    for caller, target in ((HARPER, "ab34"), (ROOT, "zz"), (ROOT, "a")):
        with pytest.raises(ControlError, match="no user endpoint matches"):
            ask(look, caller, "log", target=target)
    with pytest.raises(ControlError, match="fits 2 user endpoints: ab12, ab34"):
        ask(look, ROOT, "log", target="ab")
