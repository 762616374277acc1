"""What a request at the control socket may hold, and what becomes of it."""

from __future__ import annotations

import os
from types import SimpleNamespace
from typing import Any

import pytest

from mepd.errors import ControlError
from mepd.master import acting, asking, views
from mepd.master.asking import Caller
from mepd.master.history import History, Kind
from mepd.master.later import Later
from mepd.master.looking import Looking
from mepd.master.loop import Loop
from mepd.master.steering import Steering
from mepd.master.table import Uep, UepTable
from mepd.model import StartRequest, UepState
from mepd.posix.peer import Peer
from mepd.posix.process import ProcessId

ROOT = Caller(Peer(1, 0, 0), True)
HARPER = Caller(Peer(2, 1000, 1000), False)
MEP = "4ade0000-0000-4000-8000-000000000001"


def uep(ident: str, user: str = "harper", uid: int = 1000, **keys: Any) -> Uep:
    request = StartRequest(f"uep.{MEP}.{ident}", MEP, ident, "e", user, (), 0, {})
    who = ProcessId(2**22 + uid, 0.0)  # nobody's
    given: dict[str, Any] = {"state": UepState.RUNNING, **keys}
    return Uep(request.name, "gpu", request, who, who, "c", 0.0, user=user, uid=uid, **given)


def table(*ueps: Uep) -> UepTable:
    made = UepTable()
    for one in ueps:
        made.add(one)
    return made


@pytest.mark.parametrize(
    ("call", "value", "said"),
    [
        (asking.text, 5, "k must be a string"),
        (asking.needed, "", "k is missing"),
        (asking.needed, None, "k is missing"),
        (asking.flag, "yes", "k must be true or false"),
        (asking.flag, 1, "k must be true or false"),
        (asking.texts, "abc", "k must be a list of strings"),
        (asking.texts, ["a", ""], "k must be a list of strings"),
        (asking.texts, ["a", 5], "k must be a list of strings"),
        (asking.texts, ["a"] * 1001, "k has 1001 words; at most 1000"),
        (asking.number, True, "k must be a number that is not negative"),
        (asking.number, -1, "k must be a number that is not negative"),
        (asking.number, 1e13, "k must be a number that is not negative"),
        (asking.number, float("nan"), "k must be a number that is not negative"),
        (asking.number, "5", "k must be a number that is not negative"),
    ],
)
def test_arguments_of_another_kind(call: Any, value: Any, said: str) -> None:
    with pytest.raises(ControlError, match=said) as caught:
        call({"k": value}, "k")
    assert caught.value.exit_code == os.EX_USAGE


def test_arguments_as_they_should_be() -> None:
    args = {"t": "x", "f": True, "l": ["a"], "n": 5}
    assert (asking.text(args, "t"), asking.flag(args, "f"), asking.texts(args, "l")) == (
        "x", True, ["a"],
    )  # fmt: skip
    assert asking.number(args, "n") == 5.0
    nothing: dict[str, Any] = {}
    assert asking.text(nothing, "t") is asking.number(nothing, "n") is None
    assert asking.flag(nothing, "f") is False and asking.texts(nothing, "l") == []
    with pytest.raises(ControlError, match="unknown argument '__class__'"):
        asking.check_arguments({"t": 1, "__class__": 1}, ("t",))


@pytest.mark.parametrize(
    ("args", "passing"),
    [
        ({}, "abc"),
        ({"user": "harper"}, "ab"),
        ({"user": "1001"}, "c"),
        ({"endpoint": "gpu"}, "abc"),
        ({"endpoint": MEP}, "abc"),
        ({"endpoint": "cpu"}, ""),
        ({"states": ["STOPPING"]}, "b"),
        ({"states": ["RUNNING"], "user": "harper"}, "a"),
    ],
)
def test_filters(args: dict[str, Any], passing: str) -> None:
    ueps = {"a": uep("a"), "b": uep("b", state=UepState.STOPPING), "c": uep("c", "jessie", 1001)}
    assert {k for k, u in ueps.items() if asking.wanted(args)(u)} == set(passing)


class TestKill:
    @pytest.fixture
    def done(self) -> list[Any]:
        return []

    def kill(self, done: list[Any], caller: Caller = ROOT, **args: Any) -> Any:
        stopper = SimpleNamespace(
            kill=lambda u, reason: done.append(("KILL", u.request.uep_id)),
            stop=lambda u, reason, number: done.append((int(number), u.request.uep_id)),
            signal=lambda u, number, reason: done.append((int(number), u.request.uep_id)),
        )
        commander: Any = SimpleNamespace(
            table=table(uep("ab12"), uep("cd34", "jessie", 1001)), stopper=stopper
        )
        return acting.Acting(commander).table()["kill"].handler(caller, args)

    def test_targets_or_all_and_not_both(self, done: list[Any]) -> None:
        with pytest.raises(ControlError, match="name targets or say all, not both"):
            self.kill(done, all=True, targets=["ab12"])
        with pytest.raises(ControlError, match="name a user endpoint, or say --user or --all"):
            self.kill(done)
        assert not done

    def test_all_is_all_of_ones_own(self, done: list[Any]) -> None:
        self.kill(done, HARPER, all=True)
        assert done == [(15, "ab12")]
        self.kill(done, HARPER, user="jessie")
        assert len(done) == 1

    def test_a_dry_run_names_and_ends_nobody(self, done: list[Any]) -> None:
        answer = self.kill(done, endpoint="gpu", now=True, dry_run=True)
        assert len(answer["killed"]) == 2 and not done
        assert {row["signal"] for row in answer["killed"]} == {"KILL"}


def test_c1_why_another_identitys_start_failed_is_not_for_the_owner_of_the_name() -> None:
    """The last failure of a name may have been somebody else's."""
    history = History()
    own = uep("ab12")
    history.note(
        Kind.FAILED, "gpu", name=own.name, id="ab12", uid=1001, user="jessie", stage="REFUSED",
        reason="canary", public="canary",
    )  # fmt: skip
    commander: Any = SimpleNamespace(table=table(own), history=history, now=lambda: 0.0)
    handler = Looking(commander).table()["list"].handler
    assert "canary" not in str(handler(HARPER, {})) and "canary" in str(handler(ROOT, {}))


def test_a_later_uep_of_the_name_is_not_removed_with_the_former() -> None:
    former, later = uep("ab12"), uep("ab12")
    both = table(former, later)
    both.remove(former)
    assert both.get(later.name) is later
    both.remove(later)
    assert len(both) == 0


@pytest.mark.parametrize(
    ("state", "why"),
    [
        ({"stopped": True, "held": True}, "stopped by mepctl; mepctl start serves it again"),
        ({"held": True, "draining": True}, "drained by mepctl: waits for its user endpoints"),
        ({"draining": True}, "no longer configured: waits for its user endpoints"),
        ({"online": True}, ""),
        ({}, "registration refused"),
        ({"error": "config.yaml: line 3"}, "config.yaml: line 3"),
    ],
)
def test_why_an_endpoint_takes_nothing(state: dict[str, Any], why: str) -> None:
    given = {"stopped": False, "held": False, "draining": False, "online": False, **state}
    files = SimpleNamespace(error=given.pop("error", ""))
    endpoint: Any = SimpleNamespace(files=files, reason="registration refused", **given)
    assert views._why(endpoint) == why


class TestSteeringsAnswers:
    def steering(self) -> tuple[Steering, list[Any]]:
        now = [0.0]
        loop = Loop(lambda: now[0])
        commander: Any = SimpleNamespace(loop=loop)
        return Steering(commander), now

    def answer_of(self, later: Later) -> list[Any]:
        answers: list[Any] = []
        later.then(answers.append)
        return answers

    def test_what_never_comes_is_a_temporary_failure(self) -> None:
        steering, now = self.steering()
        answers = self.answer_of(steering._when(lambda: False, lambda: 1, 5.0, "does not end"))
        assert not answers
        now[0] = 6.0
        steering._c.loop._turn()
        (error,) = answers
        assert isinstance(error, ControlError) and error.exit_code == os.EX_TEMPFAIL
        assert str(error) == "does not end"

    def test_a_refusal_of_what_comes_next_is_the_answer(self) -> None:
        steering, _ = self.steering()

        def refused() -> Any:
            raise ControlError("config.yaml: is missing", os.EX_CONFIG)

        (error,) = self.answer_of(steering._when(lambda: True, refused, 5.0, "late"))
        assert isinstance(error, ControlError) and error.exit_code == os.EX_CONFIG

    def test_what_comes_next_may_take_its_time(self) -> None:
        steering, _ = self.steering()
        inner = Later()
        answers = self.answer_of(steering._when(lambda: True, lambda: inner, 5.0, "late"))
        assert not answers
        inner.resolve({"state": "online"})
        assert answers == [{"state": "online"}]


def test_others_user_endpoints_go_on_when_an_endpoint_is_stopped() -> None:
    stopped: list[str] = []
    config: Any = SimpleNamespace(
        hold=lambda name: None, endpoints={"gpu": SimpleNamespace(state="draining")}
    )
    other = uep("cd34", "jessie", 1001)
    other.endpoint = "cpu"
    commander: Any = SimpleNamespace(
        config=config, table=table(uep("ab12"), other), loop=Loop(lambda: 0.0),
        stopper=SimpleNamespace(
            stopwaitsecs=1.0, stop=lambda u, reason: stopped.append(u.request.uep_id)
        ),
    )  # fmt: skip
    Steering(commander)._stop_endpoint("gpu", ROOT, lambda: None)
    assert stopped == ["ab12"]
