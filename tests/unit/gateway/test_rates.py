"""Requests and waiting submissions of one identity, by a clock of our own."""

from __future__ import annotations

import pytest

from mepd.gateway import rates
from mepd.gateway.failures import ApiError
from mepd.gateway.rates import Rates, Waiting


def test_G5_a_bucket_for_each_identity() -> None:
    now = [100.0]
    table = Rates(2.0, 5, lambda: now[0])
    for _ in range(5):
        table.take("hasty")
    with pytest.raises(ApiError) as raised:
        table.take("hasty")
    assert raised.value.status == 429 and raised.value.retry_after == 1
    table.take("calm")
    now[0] += 0.5
    table.take("hasty")
    with pytest.raises(ApiError):
        table.take("hasty")
    now[0] += 1000
    for _ in range(5):
        table.take("hasty")
    with pytest.raises(ApiError):
        table.take("hasty")


def test_G5_a_known_token_is_refused_before_the_store_is_asked() -> None:
    table = Rates(1.0, 1, lambda: 0.0)
    assert not table.take_early("hash")
    table.learn("hash", "me")
    assert table.take_early("hash")
    with pytest.raises(ApiError):
        table.take_early("hash")
    table.forget("hash")
    assert not table.take_early("hash")


def test_what_is_remembered_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rates, "REMEMBERED", 3)
    table = Rates(1.0, 1, lambda: 0.0)
    for name in "abcd":
        table.take(name)
    table.take("a")  # forgotten, so forgiven
    with pytest.raises(ApiError):
        table.take("d")


def test_a_quarter_of_the_places_for_one() -> None:
    waiting = Waiting(8)
    with waiting.one("me"), waiting.one("me"):
        assert waiting.count == 2
        with pytest.raises(ApiError) as raised, waiting.one("me"):
            pass
        assert raised.value.status == 429
        with waiting.one("you"):
            assert waiting.count == 3
    assert waiting.count == 0


def test_all_places_taken() -> None:
    waiting = Waiting(2)
    with waiting.one("a"), waiting.one("b"), pytest.raises(ApiError), waiting.one("c"):
        pass
