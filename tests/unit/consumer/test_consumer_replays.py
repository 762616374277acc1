"""What is a replay, and what is the broker's honest second try."""

from __future__ import annotations

import pytest
from pika import BasicProperties

from mepd.consumer.replays import Fingerprint, Replays, fingerprint
from mepd.consumer.tokens import Token

NOW = 1_700_000_000


class Clock:
    now = float(NOW)

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def _message(body: bytes = b"{}", **properties: object) -> Fingerprint:
    return fingerprint(BasicProperties(**({"timestamp": NOW} | properties)), body)  # type: ignore


def test_A7_a_settled_request_is_known_on_every_later_channel(clock: Clock) -> None:
    replays, token = Replays(clock), Token("debug", "a-1", 1)
    assert not replays.is_replay(_message(), "a-1")
    replays.handed_over(token, _message())
    replays.settled(token)
    assert replays.is_replay(_message(), "a-1")
    assert replays.is_replay(_message(), "a-2")


def test_A7_a_copy_beside_the_first_is_a_replay(clock: Clock) -> None:
    replays = Replays(clock)
    replays.handed_over(Token("debug", "a-1", 1), _message())
    assert replays.is_replay(_message(), "a-1")


def test_what_is_open_comes_again_after_its_channel_broke(clock: Clock) -> None:
    replays = Replays(clock)
    replays.handed_over(Token("debug", "a-1", 1), _message())
    assert not replays.is_replay(_message(), "a-2")
    replays.settled(Token("debug", "a-1", 1))
    assert replays.is_replay(_message(), "a-2")


@pytest.mark.parametrize(
    "other",
    [_message(b'{"a": 1}'), _message(timestamp=NOW + 1), _message(message_id="7")],
    ids=["body", "time", "id"],
)
def test_another_request_is_none(clock: Clock, other: Fingerprint) -> None:
    replays, token = Replays(clock), Token("debug", "a-1", 1)
    replays.handed_over(token, _message())
    replays.settled(token)
    assert not replays.is_replay(other, "a-1")


def test_A7_beyond_the_skew_only_the_last_are_known(
    clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mepd.consumer.replays.LATE_MAX", 10)
    replays = Replays(clock)
    for tag in range(1000):
        token = Token("debug", "a-1", tag)
        replays.handed_over(token, _message(b"%d" % tag))
        if tag % 2:
            replays.settled(token)
    clock.now += 100
    replays.handed_over(Token("debug", "a-1", 5000), _message(timestamp=NOW + 100))
    assert (len(replays._open), len(replays._settled)) == (501, 500), "all are within it"
    clock.now += 100
    replays.handed_over(Token("debug", "a-1", 5001), _message(timestamp=NOW + 200))
    assert (len(replays._open), len(replays._settled)) == (11, 10)
    assert replays.is_replay(_message(b"999"), "a-2")
    assert not replays.is_replay(_message(b"1"), "a-2")


def test_A1_a_failure_that_nobody_was_told_is_no_replay(clock: Clock) -> None:
    replays, token = Replays(clock), Token("debug", "a-1", 1)
    replays.handed_over(token, _message())
    replays.forget(token)
    assert not replays.is_replay(_message(), "a-1")
    assert not replays.is_replay(_message(), "a-2")
    replays.forget(token)
