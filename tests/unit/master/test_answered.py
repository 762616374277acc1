"""What a consumer that died had not acknowledged: begun once, answered once."""

from __future__ import annotations

import dataclasses

from mepd.master import answered
from mepd.master.answered import Answered
from tests.root import launching

REQUEST = launching.request("harper@example.org")


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_A1_what_was_answered_is_not_new_for_the_next_consumer() -> None:
    known = Answered()
    assert known.is_new("a:1", REQUEST)
    known.settled("a:1", True)
    assert known.is_new("a:2", REQUEST), "of its own the present one knows"
    known.lost()
    assert not known.is_new("b:1", REQUEST)
    assert not known.is_new("b:2", dataclasses.replace(REQUEST))


def test_A1_what_was_not_answered_is_new_again() -> None:
    known = Answered()
    assert known.is_new("a:1", REQUEST)
    known.lost()
    known.settled("a:1", True)  # a token of the dead one's
    assert known.is_new("b:1", REQUEST)
    known.settled("b:1", False)
    assert known.is_new("b:2", REQUEST)


def test_A1_a_failure_that_was_on_its_way_is_not_told_again() -> None:
    known = Answered()
    assert known.is_new("a:1", REQUEST)
    known.sent("a:1")
    known.lost()
    assert not known.is_new("b:1", REQUEST)


def test_A1_a_failure_that_the_broker_did_not_take_may_come_again() -> None:
    known = Answered()
    known.is_new("a:1", REQUEST)
    known.sent("a:1")
    known.settled("a:1", False)
    known.lost()
    assert known.is_new("b:1", REQUEST)


def test_another_request_of_the_same_name_is_new() -> None:
    known = Answered()
    known.is_new("a:1", REQUEST)
    known.settled("a:1", True)
    known.lost()
    for changes in (
        {"timestamp": 1}, {"user_opts": {"a": 1}}, {"amqp_creds": {"a": 1}}, {"username": "x"},
    ):  # fmt: skip
        assert known.is_new("a:2", dataclasses.replace(REQUEST, **changes))  # type: ignore


def test_answers_are_forgotten_in_time() -> None:
    clock = Clock()
    known = Answered(clock)
    for number in range(100):
        clock.now = number
        known.is_new(f"a:{number}", dataclasses.replace(REQUEST, timestamp=number))
        known.settled(f"a:{number}", True)
    clock.now = answered.KEEP_S + 49.5
    known.lost()
    assert len(known._settled) == len(known._before) == 50 and not known._open
